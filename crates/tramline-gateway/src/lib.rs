//! tramline-gateway
