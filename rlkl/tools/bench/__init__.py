"""The benchmark: how fast rlkl trains, side by side with other libraries and with no learning."""
