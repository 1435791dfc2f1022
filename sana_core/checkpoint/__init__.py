"""Model files of every published layout: open them safely, recognise them, load them strictly."""
