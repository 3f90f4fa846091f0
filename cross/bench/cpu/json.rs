//! Bytes, branches and allocation: parses a JSON document of about a megabyte into a tree and writes it again.

include!("common.rs");

enum Json {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Json>),
    Map(Vec<(String, Json)>),
}

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    fn space(&mut self) {
        while self.at < self.bytes.len() && self.bytes[self.at].is_ascii_whitespace() {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        self.space();
        let is = self.bytes.get(self.at) == Some(&byte);
        self.at += usize::from(is);
        is
    }

    fn value(&mut self) -> Json {
        self.space();
        match self.bytes[self.at] {
            b'{' => {
                self.at += 1;
                let mut all = Vec::new();
                while !self.take(b'}') {
                    self.space();
                    let key = self.text();
                    assert!(self.take(b':'));
                    all.push((key, self.value()));
                    self.take(b',');
                }
                Json::Map(all)
            }
            b'[' => {
                self.at += 1;
                let mut all = Vec::new();
                while !self.take(b']') {
                    all.push(self.value());
                    self.take(b',');
                }
                Json::List(all)
            }
            b'"' => Json::Text(self.text()),
            b't' => self.word(4, Json::Bool(true)),
            b'f' => self.word(5, Json::Bool(false)),
            b'n' => self.word(4, Json::Null),
            _ => self.number(),
        }
    }

    fn word(&mut self, length: usize, value: Json) -> Json {
        self.at += length;
        value
    }

    fn number(&mut self) -> Json {
        let from = self.at;
        while self.at < self.bytes.len() && matches!(self.bytes[self.at], b'0'..=b'9' | b'-' | b'+' | b'.' | b'e') {
            self.at += 1;
        }
        let digits = std::str::from_utf8(&self.bytes[from..self.at]).unwrap();
        Json::Number(digits.parse().unwrap())
    }

    fn text(&mut self) -> String {
        self.at += 1;
        let mut out = Vec::new();
        loop {
            match self.bytes[self.at] {
                b'"' => break,
                b'\\' => {
                    self.at += 1;
                    out.push(match self.bytes[self.at] {
                        b'n' => b'\n',
                        b't' => b'\t',
                        other => other,
                    });
                }
                byte => out.push(byte),
            }
            self.at += 1;
        }
        self.at += 1;
        String::from_utf8(out).unwrap()
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', byte]),
            b'\n' => out.extend(b"\\n"),
            b'\t' => out.extend(b"\\t"),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

fn write(value: &Json, out: &mut Vec<u8>) {
    match value {
        Json::Null => out.extend(b"null"),
        Json::Bool(b) => out.extend(if *b { b"true".as_slice() } else { b"false" }),
        Json::Number(n) => out.extend(format!("{}", n).bytes()),
        Json::Text(t) => write_text(t, out),
        Json::List(all) => {
            out.push(b'[');
            for (i, v) in all.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write(v, out);
            }
            out.push(b']');
        }
        Json::Map(all) => {
            out.push(b'{');
            for (i, (k, v)) in all.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_text(k, out);
                out.push(b':');
                write(v, out);
            }
            out.push(b'}');
        }
    }
}

fn document() -> String {
    let mut out = String::from("[");
    for i in 0..8000_u32 {
        if i > 0 {
            out.push(',');
        }
        let x = i.wrapping_mul(2_654_435_761);
        out += &format!(
            "{{\"id\": {}, \"name\": \"device \\\"{:08x}\\\"\", \"on\": {}, \"at\": [{}.{}, -{}.5e1, null], \"note\": \"line one\\nline two\\ttab\"}}",
            i,
            x,
            x % 2 == 0,
            x % 90,
            x % 997,
            x % 180
        );
    }
    out.push(']');
    out
}

fn main() {
    let text = document();
    measure(|| {
        let tree = Parser { bytes: text.as_bytes(), at: 0 }.value();
        let mut out = Vec::with_capacity(text.len());
        write(&tree, &mut out);
        out.iter().fold(out.len() as u64, |sum, byte| sum.wrapping_mul(31) ^ u64::from(*byte))
    });
}
