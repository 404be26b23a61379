"""Files anywhere: one directory of a run, local files, remote stores."""
