//! Pointer chasing and unpredictable branches: counts matches of patterns by a Pike machine over generated log lines.

include!("common.rs");

#[derive(Clone, Copy)]
enum Step {
    Byte(u8),
    Any,
    Digit,
    Word,
    Fork(usize, usize),
    Jump(usize),
    Match,
}

/// Compiles letters, `.`, `\d`, `\w` and groups of alternatives, each followed by `*`, `+`, `?` or nothing.
struct Compiler<'a> {
    pattern: &'a [u8],
    at: usize,
    steps: Vec<Step>,
}

impl Compiler<'_> {
    fn alternatives(&mut self) {
        let from = self.steps.len();
        self.sequence();
        while self.pattern.get(self.at) == Some(&b'|') {
            self.at += 1;
            self.open(from, 1);
            let second = self.steps.len() + 1;
            self.steps[from] = Step::Fork(from + 1, second);
            self.steps.push(Step::Match);
            let jump = second - 1;
            self.sequence();
            self.steps[jump] = Step::Jump(self.steps.len());
        }
    }

    fn sequence(&mut self) {
        while let Some(byte) = self.pattern.get(self.at).copied() {
            if byte == b')' || byte == b'|' {
                return;
            }
            let from = self.steps.len();
            self.at += 1;
            match byte {
                b'(' => {
                    self.alternatives();
                    self.at += 1;
                }
                b'.' => self.steps.push(Step::Any),
                b'\\' => {
                    let class = self.pattern[self.at];
                    self.at += 1;
                    self.steps.push(match class {
                        b'd' => Step::Digit,
                        b'w' => Step::Word,
                        other => Step::Byte(other),
                    });
                }
                other => self.steps.push(Step::Byte(other)),
            }
            self.repeat(from);
        }
    }

    fn repeat(&mut self, from: usize) {
        match self.pattern.get(self.at) {
            Some(b'*') => {
                self.open(from, 1);
                self.steps.push(Step::Jump(from));
                self.steps[from] = Step::Fork(from + 1, self.steps.len());
            }
            Some(b'+') => {
                let next = self.steps.len() + 1;
                self.steps.push(Step::Fork(from, next));
            }
            Some(b'?') => {
                self.open(from, 1);
                self.steps[from] = Step::Fork(from + 1, self.steps.len());
            }
            _ => return,
        }
        self.at += 1;
    }

    /// Makes room at `from` and corrects what points behind it.
    fn open(&mut self, from: usize, by: usize) {
        self.steps.insert(from, Step::Match);
        for step in &mut self.steps[from + 1..] {
            let moved = |to: usize| if to >= from { to + by } else { to };
            *step = match *step {
                Step::Fork(a, b) => Step::Fork(moved(a), moved(b)),
                Step::Jump(a) => Step::Jump(moved(a)),
                other => other,
            };
        }
    }
}

fn compile(pattern: &str) -> Vec<Step> {
    let mut c = Compiler { pattern: pattern.as_bytes(), at: 0, steps: Vec::new() };
    c.alternatives();
    c.steps.push(Step::Match);
    c.steps
}

struct Threads {
    list: Vec<usize>,
    seen: Vec<u32>,
}

fn add(steps: &[Step], threads: &mut Threads, mark: u32, at: usize) {
    if threads.seen[at] == mark {
        return;
    }
    threads.seen[at] = mark;
    match steps[at] {
        Step::Jump(to) => add(steps, threads, mark, to),
        Step::Fork(a, b) => {
            add(steps, threads, mark, a);
            add(steps, threads, mark, b);
        }
        _ => threads.list.push(at),
    }
}

/// Whether the pattern is found anywhere in the line.
fn found(steps: &[Step], line: &[u8], now: &mut Threads, next: &mut Threads, mark: &mut u32) -> bool {
    now.list.clear();
    *mark += 1;
    for byte in line.iter().chain(&[0]) {
        add(steps, now, *mark, 0);
        *mark += 1;
        next.list.clear();
        for i in 0..now.list.len() {
            let at = now.list[i];
            let takes = match steps[at] {
                Step::Byte(b) => b == *byte,
                Step::Any => *byte != 0,
                Step::Digit => byte.is_ascii_digit(),
                Step::Word => byte.is_ascii_alphanumeric() || *byte == b'_',
                _ => return true,
            };
            if takes {
                add(steps, next, *mark, at + 1);
            }
        }
        std::mem::swap(now, next);
    }
    false
}

fn main() {
    let patterns = ["(error|warning): \\w+ \\d+", "10\\.\\d+\\.\\d+\\.\\d+", "a.*b.*c.*d", "(0|1|2|3)+x(a|b)?y*z"];
    let programs: Vec<Vec<Step>> = patterns.iter().map(|p| compile(p)).collect();
    let lines: Vec<String> = (0..1500_u32)
        .map(|i| {
            let x = i.wrapping_mul(2_654_435_761);
            let level = ["info", "error", "warning", "debug"][(x >> 13) as usize % 4];
            format!("{:08x} host{} {}: unit_{} {} from 10.{}.{}.7 took {} ms", x, x % 7, level, x % 31, x % 997, x % 256, i % 256, x % 5000)
        })
        .collect();
    measure(|| {
        let mut count = 0;
        for steps in &programs {
            let fresh = || Threads { list: Vec::new(), seen: vec![0; steps.len()] };
            let (mut now, mut next, mut mark) = (fresh(), fresh(), 0);
            for line in &lines {
                count = count * 2 % 1_000_003 + u64::from(found(steps, line.as_bytes(), &mut now, &mut next, &mut mark));
            }
        }
        count
    });
}
