"""From defects that a station missed to a bundle that finds them: the command `inspectd-train update`."""
