"""The dataset doctor: what is wrong or doubtful about annotations and pictures, where, and how to mend it."""
