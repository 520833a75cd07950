//! tramline-host
