//! tramline-engine
