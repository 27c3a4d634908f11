"""The sweep: what is measured in which order, by which engine, and recorded. No screen, no judgement of its own."""
