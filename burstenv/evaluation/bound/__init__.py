"""Upper bounds, and the room that a scenario leaves for judgement."""
