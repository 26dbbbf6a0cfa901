"""Every query, every lock, and every conversion between rows and events."""
