"""For authors of provider plugins: a conformance suite, a provider in memory as its reference, fakes."""
