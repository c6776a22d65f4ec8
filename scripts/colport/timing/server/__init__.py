"""MLPerf's scenarios: single stream and offline as cases of a run, a server in addition."""
