"""`vinf bench quality`: ways to make a long video beside each other, by what can be seen in the videos."""
