"""How Sana-nano is made: README.md lists the stages."""
