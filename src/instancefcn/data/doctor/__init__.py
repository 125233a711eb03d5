"""The dataset doctor: finds errors and doubtful cases in annotations and images, and fixes what it can."""
