"""Real or generated: a page on which people judge images, and what their answers say.

The truth is hidden in the page, not locked away: it keeps honest players honest. Hashes would do no
more, because two possible answers are soon tried, and not every browser offers `crypto.subtle` on
a file. Classes are drawn evenly, not as often as they occur.
"""
