//! Twenty workers, pages under writes, feeds over restarts, locks in turn.
