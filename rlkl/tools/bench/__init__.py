"""The benchmark: training speed of rlkl, of other libraries, and of the environments alone."""
