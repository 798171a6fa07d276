"""The only room of the dataplane that talks to the kernel; each door is narrow and has a fake beside it."""
