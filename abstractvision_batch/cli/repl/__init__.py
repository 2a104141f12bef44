"""`avbatch repl`: a backend tried by hand.

`session` what is set and what it does · `commands` the table of slash commands · `completion` what Tab offers ·
`line_editor` the only file that knows prompt_toolkit · `loop` lines in, replies out.
"""
