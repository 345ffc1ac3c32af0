"""What is solved and how it is graded. Nothing here imports lab/ or the algorithm."""
