"""The main job of the README, from real scans to a report; `brain-transformers demo` calls it."""
