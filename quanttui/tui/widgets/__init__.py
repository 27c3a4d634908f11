"""What the screen is made of: every widget is a pure function from a view to lines, inside one kind of sheet."""
