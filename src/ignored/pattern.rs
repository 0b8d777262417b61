//! One line of a `.gitignore`, and git's wildcard matching.

/// Steps that one match may take; a pattern that needs more is hostile and matches nothing.
const MAX_STEPS: u32 = 50_000;

/// The longest pattern in bytes; matching calls itself for each star, and must not run out of stack.
const MAX_PATTERN: usize = 1024;

/// One pattern.
#[derive(Debug)]
pub(super) struct Pattern {
    /// A match takes the path back (`!`).
    pub(super) negated: bool,
    /// Matches directories only (a trailing `/`).
    directory: bool,
    /// Has no `/`, so it is compared with the last component alone.
    name_only: bool,
    /// Is `*` and then no wildcard.
    suffix: bool,
    /// Bytes before the first wildcard.
    literal: usize,
    text: Box<[u8]>,
}

/// Reads a pattern file.
pub(super) fn parse(bytes: &[u8]) -> Vec<Pattern> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    bytes.split(|byte| *byte == b'\n').filter_map(Pattern::parse).collect()
}

impl Pattern {
    fn parse(line: &[u8]) -> Option<Self> {
        if line.first() == Some(&b'#') {
            return None;
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = trim_spaces(line.split(|byte| *byte == 0).next().unwrap_or(line));
        let (negated, line) = match line.strip_prefix(b"!") {
            Some(rest) => (true, rest),
            None => (false, line),
        };
        let (directory, line) = match line.strip_suffix(b"/") {
            Some(rest) => (true, rest),
            None => (false, line),
        };
        if line.is_empty() || line.len() > MAX_PATTERN {
            return None;
        }
        let name_only = !line.contains(&b'/');
        let line = line.strip_prefix(b"/").unwrap_or(line);
        Some(Self {
            negated,
            directory,
            name_only,
            suffix: line[..].strip_prefix(b"*").is_some_and(|rest| literal_len(rest) == rest.len()),
            literal: literal_len(line),
            text: line.into(),
        })
    }

    /// Whether it matches `path`, relative to the pattern's file, whose last component is `name`.
    pub(super) fn matches(&self, path: &[u8], name: &[u8], is_directory: bool) -> bool {
        if self.directory && !is_directory {
            return false;
        }
        if self.name_only {
            if self.literal == self.text.len() {
                return *self.text == *name;
            }
            if self.suffix {
                return name.ends_with(&self.text[1..]);
            }
            return name.starts_with(&self.text[..self.literal])
                && wild(&self.text[self.literal..], &name[self.literal..], false);
        }
        let Some(rest) = path.strip_prefix(&self.text[..self.literal]) else { return false };
        let pattern = &self.text[self.literal..];
        if pattern.is_empty() { rest.is_empty() } else { wild(pattern, rest, true) }
    }
}

/// Without trailing spaces, unless a backslash keeps them.
fn trim_spaces(line: &[u8]) -> &[u8] {
    let mut end = 0;
    let mut at = 0;
    while at < line.len() {
        match line[at] {
            b' ' => {}
            b'\\' => {
                if at + 1 == line.len() {
                    return line;
                }
                at += 1;
                end = at + 1;
            }
            _ => end = at + 1,
        }
        at += 1;
    }
    &line[..end]
}

fn is_special(byte: u8) -> bool {
    matches!(byte, b'*' | b'?' | b'[' | b'\\')
}

fn literal_len(pattern: &[u8]) -> usize {
    pattern.iter().position(|byte| is_special(*byte)).unwrap_or(pattern.len())
}

/// How a match ended; the two kinds of abort tell the callers which of their stars need not try on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Match,
    NoMatch,
    AbortAll,
    AbortToStarStar,
}

/// Matches `text` with `pattern`; with `by_component`, `*` and `?` stop at a `/`.
fn wild(pattern: &[u8], text: &[u8], by_component: bool) -> bool {
    Wild { pattern, text, by_component, steps: 0 }.run(0, 0) == Outcome::Match
}

struct Wild<'a> {
    pattern: &'a [u8],
    text: &'a [u8],
    by_component: bool,
    steps: u32,
}

impl Wild<'_> {
    /// The byte of the pattern at `at`; 0, which is in no pattern, after its end.
    fn pattern_at(&self, at: usize) -> u8 {
        self.pattern.get(at).copied().unwrap_or(0)
    }

    /// The byte of the text at `at`; 0, which is in no path, after its end.
    fn text_at(&self, at: usize) -> u8 {
        self.text.get(at).copied().unwrap_or(0)
    }

    /// `dowild` of git's `wildmatch.c`, step for step.
    fn run(&mut self, start: usize, mut t: usize) -> Outcome {
        let mut p = start;
        loop {
            let byte = self.pattern_at(p);
            if byte == 0 {
                return if t < self.text.len() { Outcome::NoMatch } else { Outcome::Match };
            }
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return Outcome::AbortAll;
            }
            let c = self.text_at(t);
            if c == 0 && byte != b'*' {
                return Outcome::AbortAll;
            }
            match byte {
                b'?' => {
                    if self.by_component && c == b'/' {
                        return Outcome::NoMatch;
                    }
                }
                b'*' => match self.star(start, p, t) {
                    Ok((next_p, next_t)) => (p, t) = (next_p, next_t),
                    Err(outcome) => return outcome,
                },
                b'[' => match self.class(p, c) {
                    Some((end, true)) => p = end,
                    Some((_, false)) => return Outcome::NoMatch,
                    None => return Outcome::AbortAll,
                },
                _ => {
                    if byte == b'\\' {
                        p += 1;
                    }
                    if self.pattern_at(p) != c {
                        return Outcome::NoMatch;
                    }
                }
            }
            p += 1;
            t += 1;
        }
    }

    /// One or more stars at `p`. `Ok` has the places of the `/` where matching goes on.
    fn star(&mut self, start: usize, first: usize, t: usize) -> Result<(usize, usize), Outcome> {
        let mut p = first + 1;
        let mut slashes = !self.by_component;
        if self.pattern_at(p) == b'*' {
            while self.pattern_at(p) == b'*' {
                p += 1;
            }
            let opens = first == start || self.pattern_at(first - 1) == b'/';
            let next = self.pattern_at(p);
            let closes =
                next == 0 || next == b'/' || (next == b'\\' && self.pattern_at(p + 1) == b'/');
            if self.by_component && opens && closes {
                if next == b'/' && self.run(p + 1, t) == Outcome::Match {
                    return Err(Outcome::Match);
                }
                slashes = true;
            }
        }
        let next = self.pattern_at(p);
        let rest = self.text.get(t..).unwrap_or_default();
        if next == 0 {
            let stops = !slashes && rest.contains(&b'/');
            return Err(if stops { Outcome::AbortToStarStar } else { Outcome::Match });
        }
        if !slashes && next == b'/' {
            let slash = rest.iter().position(|byte| *byte == b'/').ok_or(Outcome::AbortAll)?;
            return Ok((p, t + slash));
        }
        Err(self.try_from_each(p, t, slashes))
    }

    /// Whether the pattern from `p` on matches from some place of the text at or after `t`.
    fn try_from_each(&mut self, p: usize, mut t: usize, slashes: bool) -> Outcome {
        let next = self.pattern_at(p);
        while t < self.text.len() {
            if !is_special(next) {
                while t < self.text.len()
                    && self.text[t] != next
                    && (slashes || self.text[t] != b'/')
                {
                    t += 1;
                }
                if self.text_at(t) != next {
                    return if slashes { Outcome::AbortAll } else { Outcome::AbortToStarStar };
                }
            }
            match self.run(p, t) {
                Outcome::NoMatch => {
                    if !slashes && self.text[t] == b'/' {
                        return Outcome::AbortToStarStar;
                    }
                }
                Outcome::AbortToStarStar if slashes => {}
                outcome => return outcome,
            }
            t += 1;
        }
        Outcome::AbortAll
    }

    /// A set in brackets that begins at `p`: where its `]` is, and whether `c` is in it. `None` if
    /// it does not end.
    fn class(&self, mut p: usize, c: u8) -> Option<(usize, bool)> {
        p += 1;
        let negated = matches!(self.pattern_at(p), b'!' | b'^');
        if negated {
            p += 1;
        }
        let mut matched = false;
        let mut previous = 0;
        loop {
            let mut byte = self.pattern_at(p);
            match byte {
                0 => return None,
                b'\\' => {
                    p += 1;
                    byte = self.pattern_at(p);
                    if byte == 0 {
                        return None;
                    }
                    matched |= c == byte;
                }
                b'-' if previous != 0 && !matches!(self.pattern_at(p + 1), 0 | b']') => {
                    p += 1;
                    let mut last = self.pattern_at(p);
                    if last == b'\\' {
                        p += 1;
                        last = self.pattern_at(p);
                        if last == 0 {
                            return None;
                        }
                    }
                    matched |= (previous..=last).contains(&c);
                    byte = 0;
                }
                b'[' if self.pattern_at(p + 1) == b':' => {
                    let name = p + 2;
                    let end = name + self.pattern[name..].iter().position(|byte| *byte == b']')?;
                    if end == name || self.pattern[end - 1] != b':' {
                        matched |= c == b'[';
                    } else {
                        matched |= in_class(&self.pattern[name..end - 1], c)?;
                        p = end;
                        byte = 0;
                    }
                }
                _ => matched |= c == byte,
            }
            previous = byte;
            p += 1;
            if self.pattern_at(p) == b']' {
                break;
            }
        }
        Some((p, matched != negated && !(self.by_component && c == b'/')))
    }
}

/// Whether `c` is in a named class of POSIX; `None` if there is no such class.
fn in_class(name: &[u8], c: u8) -> Option<bool> {
    Some(match name {
        b"alnum" => c.is_ascii_alphanumeric(),
        b"alpha" => c.is_ascii_alphabetic(),
        b"blank" => c == b' ' || c == b'\t',
        b"cntrl" => c.is_ascii_control(),
        b"digit" => c.is_ascii_digit(),
        b"graph" => c.is_ascii_graphic(),
        b"lower" => c.is_ascii_lowercase(),
        b"print" => c.is_ascii_graphic() || c == b' ',
        b"punct" => c.is_ascii_punctuation(),
        b"space" => c.is_ascii_whitespace() || c == b'\x0b',
        b"upper" => c.is_ascii_uppercase(),
        b"xdigit" => c.is_ascii_hexdigit(),
        _ => return None,
    })
}
