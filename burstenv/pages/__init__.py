"""How every HTML page of burstenv looks: one style sheet, one template, one script, one way to draw lines."""
