"""The engine: a process of its own that holds one quant, measures it, and may die without taking the sweep along."""
