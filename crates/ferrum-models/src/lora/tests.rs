//! What is read of adapters, and what is refused.
