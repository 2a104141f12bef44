"""The commands, one file a verb: parse, call the library, print."""
