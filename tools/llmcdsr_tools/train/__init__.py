"""Stage `train`: SASRec on the histories of a data set, with pseudo items and meta-learning if asked to."""
