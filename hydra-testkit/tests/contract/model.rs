//! Random operations against a model of ten lines of state, with evictions and restarts in between.
