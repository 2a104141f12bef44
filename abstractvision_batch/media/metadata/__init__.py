"""What made a file, inside the file: written losslessly into PNG, JPEG, WebP and MP4, and read again."""
