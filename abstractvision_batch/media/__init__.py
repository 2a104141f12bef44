"""Encoding, decoding and measuring of images and videos. Knows nothing of requests, backends or stores."""
