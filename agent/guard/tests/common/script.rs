//! Guests that make calls of WASI one after the other, whatever comes of each, and print what came of them: so that a test can
//! try what a library of the guest's language would not even ask for.

use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Parameters of the calls of WASI preview 1: `i` is i32, `I` is i64; each answers an errno.
const CALLS: &str = "args_get:ii args_sizes_get:ii environ_get:ii environ_sizes_get:ii clock_res_get:ii clock_time_get:iIi \
    fd_advise:iIIi fd_allocate:iII fd_close:i fd_datasync:i fd_fdstat_get:ii fd_fdstat_set_flags:ii \
    fd_fdstat_set_rights:iII fd_filestat_get:ii fd_filestat_set_size:iI fd_filestat_set_times:iIIi fd_pread:iiiIi \
    fd_prestat_get:ii fd_prestat_dir_name:iii fd_pwrite:iiiIi fd_read:iiii fd_readdir:iiiIi fd_renumber:ii fd_seek:iIii \
    fd_sync:i fd_tell:ii fd_write:iiii path_create_directory:iii path_filestat_get:iiiii path_filestat_set_times:iiiiIIi \
    path_link:iiiiiii path_open:iiiiiIIii path_readlink:iiiiii path_remove_directory:iii path_rename:iiiiii \
    path_symlink:iiiii path_unlink_file:iii poll_oneoff:iiii proc_raise:i sched_yield: random_get:ii";

/// Errnos of WASI preview 1.
pub const SUCCESS: u32 = 0;
pub const BADF: u32 = 8;
pub const MFILE: u32 = 33;
pub const NOSPC: u32 = 51;

/// Where things lie in the guest's memory: an iovec at 0, descriptors that were opened from 256 on, texts, results, output.
const SLOTS: usize = 256;
const TEXTS: usize = 4096;
const RESULTS: usize = 32_768;
const OUTPUT: usize = 40_960;
/// A buffer of a MiB, of ones.
const BUFFER: usize = 1 << 20;
/// Pages of memory that such a guest begins with.
pub const PAGES: u32 = 48;

/// A guest in the making.
#[derive(Debug, Default)]
pub struct Script {
    used: BTreeSet<&'static str>,
    texts: String,
    text_bytes: usize,
    body: String,
    results: usize,
}

fn signature(name: &str) -> (&'static str, &'static str) {
    let of = |call: &'static str| call.split_once(':').filter(|(n, _)| *n == name);
    CALLS.split_whitespace().find_map(of).unwrap_or_else(|| panic!("{name} is no call of WASI"))
}

impl Script {
    pub fn new() -> Self {
        Self::default()
    }

    /// One call; its errno is printed. Words: a number, `'path'` for a pointer and a length, `$N` for what an earlier call
    /// left in slot N, `&N` for the address of that slot, `@/name` for the folder that is open under this name (their
    /// numbers are in no order).
    pub fn call(&mut self, text: &str) -> &mut Self {
        let call = self.expression(text);
        self.record(&call)
    }

    /// The value of any expression of type i32 is printed.
    pub fn record(&mut self, expression: &str) -> &mut Self {
        let at = RESULTS + 4 * self.results;
        self.results += 1;
        assert!(at < OUTPUT, "too many results");
        writeln!(self.body, "(i32.store (i32.const {at}) {expression})").unwrap();
        self
    }

    /// Anything else.
    pub fn code(&mut self, text: &str) -> &mut Self {
        self.body.push_str(text);
        self
    }

    /// The expression of a call, for a loop.
    pub fn expression(&mut self, text: &str) -> String {
        let mut words = text.split(' ');
        let (name, types) = signature(words.next().unwrap());
        self.used.insert(name);
        let mut values = Vec::new();
        for word in words {
            if let Some(path) = word.strip_prefix('\'') {
                let (at, length) = self.text(path.trim_end_matches('\''));
                values.extend([format!("{at}"), format!("{length}")]);
            } else if let Some(name) = word.strip_prefix('@') {
                // The engine tells `/` as it is and every other name without its first slash.
                let name = Some(name.trim_start_matches('/')).filter(|n| !n.is_empty()).unwrap_or("/");
                let (at, length) = self.text(name);
                values.push(format!("(call $find (i32.const {at}) (i32.const {length}))"));
            } else if let Some(slot) = word.strip_prefix('$') {
                let slot: usize = slot.parse().unwrap();
                values.push(format!("(i32.load (i32.const {}))", SLOTS + 4 * slot));
            } else if let Some(slot) = word.strip_prefix('&') {
                let slot: usize = slot.parse().unwrap();
                values.push(format!("{}", SLOTS + 4 * slot));
            } else {
                values.push(word.to_owned());
            }
        }
        assert_eq!(values.len(), types.len(), "{text}");
        let typed = values.iter().zip(types.chars()).map(|(v, t)| match (v.starts_with('('), t) {
            (true, _) => v.clone(),
            (false, 'I') => format!("(i64.const {v})"),
            (false, _) => format!("(i32.const {v})"),
        });
        format!("(call ${name} {})", typed.collect::<Vec<_>>().join(" "))
    }

    /// Opens a path below the descriptor, to read and write with all rights, into the slot.
    pub fn open(&mut self, base: &str, path: &str, oflags: u32, slot: usize) -> &mut Self {
        // Following links; all rights that a file can have.
        self.call(&format!("path_open {base} 1 '{path}' {oflags} 0x1fffffff 0x1fffffff 0 &{slot}"))
    }

    /// Opens a path to read only, as the least that one can ask for.
    pub fn peek(&mut self, base: &str, path: &str, slot: usize) -> &mut Self {
        self.call(&format!("path_open {base} 1 '{path}' 0 2 2 0 &{slot}"))
    }

    /// Writes the buffer of a MiB to the descriptor until that fails; prints the errno and the MiB that were written whole.
    pub fn fill(&mut self, slot: usize) -> &mut Self {
        let write = self.expression(&format!("fd_write ${slot} 0 1 8"));
        let label = self.results;
        writeln!(
            self.body,
            "(i32.store (i32.const 0) (i32.const {BUFFER})) (i32.store (i32.const 4) (i32.const 1048576))
             (local.set $n (i32.const 0)) (local.set $e (i32.const 0))
             (block $full{label} (loop $more{label}
               (local.set $e {write})
               (br_if $full{label} (local.get $e))
               (br_if $full{label} (i32.lt_u (i32.load (i32.const 8)) (i32.const 1048576)))
               (local.set $n (i32.add (local.get $n) (i32.const 1)))
               (br_if $more{label} (i32.lt_u (local.get $n) (i32.const 4096)))))"
        )
        .unwrap();
        // A short write says that it is full as well; the next one gives the errno.
        writeln!(self.body, "(if (i32.eqz (local.get $e)) (then (local.set $e {write})))").unwrap();
        self.record("(local.get $e)").record("(local.get $n)")
    }

    fn text(&mut self, text: &str) -> (usize, usize) {
        let at = TEXTS + self.text_bytes;
        let escaped = text.bytes().fold(String::new(), |mut s, b| {
            write!(s, "\\{b:02x}").unwrap();
            s
        });
        writeln!(self.texts, "(data (i32.const {at}) \"{escaped}\")").unwrap();
        self.text_bytes += text.len() + 1;
        assert!(at + text.len() < RESULTS, "too much text");
        (at, text.len())
    }

    /// The module: it makes the calls, prints all results on descriptor 1 and exits with 0.
    pub fn module(&mut self) -> Vec<u8> {
        self.used.extend(["fd_write", "fd_prestat_get", "fd_prestat_dir_name"]);
        let mut text = String::from("(module\n");
        for name in &self.used {
            let types: Vec<&str> =
                signature(name).1.chars().map(|c| if c == 'I' { "i64" } else { "i32" }).collect();
            let params =
                if types.is_empty() { String::new() } else { format!("(param {})", types.join(" ")) };
            writeln!(
                text,
                "(import \"wasi_snapshot_preview1\" \"{name}\" (func ${name} {params} (result i32)))"
            )
            .unwrap();
        }
        let (bytes, results) = (8 * self.results + 3, self.results);
        let (texts, body) = (&self.texts, &self.body);
        write!(
            text,
            "(import \"wasi_snapshot_preview1\" \"proc_exit\" (func $proc_exit (param i32)))
             (memory (export \"memory\") {PAGES})
             {texts}
             (func $find (param $name i32) (param $length i32) (result i32) (local $fd i32) (local $i i32)
               (local.set $fd (i32.const 3))
               (loop $next
                 (if (i32.and
                     (i32.eqz (call $fd_prestat_get (local.get $fd) (i32.const 16)))
                     (i32.eq (i32.load (i32.const 20)) (local.get $length)))
                   (then
                     (drop (call $fd_prestat_dir_name (local.get $fd) (i32.const 2048) (local.get $length)))
                     (local.set $i (i32.const 0))
                     (block $other (loop $same
                       (br_if $other (i32.ne (i32.load8_u (i32.add (i32.const 2048) (local.get $i)))
                         (i32.load8_u (i32.add (local.get $name) (local.get $i)))))
                       (local.set $i (i32.add (local.get $i) (i32.const 1)))
                       (br_if $same (i32.lt_u (local.get $i) (local.get $length)))
                       (return (local.get $fd))))))
                 (br_if $next (i32.lt_u (local.tee $fd (i32.add (local.get $fd) (i32.const 1))) (i32.const 32))))
               unreachable)
             (func $print (param $from i32) (param $count i32) (local $i i32) (local $v i32) (local $at i32)
               (local.set $at (i32.const {OUTPUT}))
               (i32.store16 (local.get $at) (i32.const 0x3a72)) (local.set $at (i32.add (local.get $at) (i32.const 2)))
               (block $done (loop $next
                 (br_if $done (i32.ge_u (local.get $i) (i32.mul (local.get $count) (i32.const 8))))
                 (local.set $v (i32.load (i32.add (local.get $from)
                   (i32.mul (i32.const 4) (i32.shr_u (local.get $i) (i32.const 3))))))
                 (local.set $v (i32.and (i32.const 15) (i32.shr_u (local.get $v)
                   (i32.sub (i32.const 28) (i32.mul (i32.const 4) (i32.and (local.get $i) (i32.const 7)))))))
                 (i32.store8 (local.get $at) (i32.add (local.get $v)
                   (select (i32.const 87) (i32.const 48) (i32.gt_u (local.get $v) (i32.const 9)))))
                 (local.set $at (i32.add (local.get $at) (i32.const 1)))
                 (local.set $i (i32.add (local.get $i) (i32.const 1)))
                 (br $next)))
               (i32.store8 (local.get $at) (i32.const 10))
               (i32.store (i32.const 0) (i32.const {OUTPUT})) (i32.store (i32.const 4) (i32.const {bytes}))
               (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
             (func (export \"_start\") (local $n i32) (local $e i32)
               (memory.fill (i32.const {BUFFER}) (i32.const 1) (i32.const 1048576))
               {body}
               (call $print (i32.const {RESULTS}) (i32.const {results}))
               (call $proc_exit (i32.const 0))))"
        )
        .unwrap();
        wat::parse_str(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
    }
}

/// The results of a guest in its log, in the order of its calls.
pub fn results(log: &str) -> Vec<u32> {
    let line = log.lines().find_map(|l| l.split_once(" stdout F r:")).map(|(_, hex)| hex);
    let hex = line.unwrap_or_else(|| panic!("the guest printed nothing: {log}"));
    let number = |chunk: &[u8]| u32::from_str_radix(std::str::from_utf8(chunk).unwrap(), 16).unwrap();
    hex.as_bytes().chunks(8).map(number).collect()
}
