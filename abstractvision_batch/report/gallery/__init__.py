"""The gallery of a run: a static page that opens by a double click, from any static host and from a bucket.

    manifest → `columns` (what is filtered and sorted) and `details` (what a click asks for) → data/*.js
    pixels → `sheets`: thumbnails, 64 a file, made by the workers while they hold the pixels, or later from the files
    `page/`: the page itself, plain HTML, CSS and JavaScript without dependencies or a build step
    `writer` puts them into RUN/gallery

It is derived and never part of a run's commit: it can be removed and written again at any time.
"""
