//! Holds pages to the code: every function that docs/architecture.md's flow table names is in the file beside it, and every
//! test that docs/security-model.md and the README name is there, and is one.

#[cfg(test)]
mod tests {
    use crate::paths;

    fn quoted(cell: &str) -> Vec<&str> {
        cell.split('`').skip(1).step_by(2).collect()
    }

    #[test]
    fn architecture_names_functions_that_are_there() {
        let root = paths::workspace();
        let page = std::fs::read_to_string(root.join("docs/architecture.md")).unwrap();
        let table = page.split("## How a deployment flows").nth(1).unwrap().split("\n## ").next().unwrap();
        let mut checked = 0;
        for row in table.lines().filter(|line| line.starts_with("| ") && line.contains(".rs`")) {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let files: Vec<String> = quoted(cells[3])
                .iter()
                .map(|file| {
                    std::fs::read_to_string(root.join(file))
                        .unwrap_or_else(|e| panic!("{file}, in {row}: {e}"))
                })
                .collect();
            for name in quoted(cells[2]) {
                let found = files.iter().any(|text| {
                    text.contains(&format!("fn {name}(")) || text.contains(&format!("fn {name}<"))
                });
                assert!(found, "no `fn {name}` in {:?}", quoted(cells[3]));
                checked += 1;
            }
        }
        assert!(checked > 25, "only {checked} names in the table");
    }
    /// Words that can only be names of tests: two underscores or more, as in `s9_sequences_only_rise`.
    fn named_tests(page: &str) -> Vec<&str> {
        let is_test = |w: &&str| {
            w.matches('_').count() >= 2
                && w.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        page.lines().flat_map(quoted).filter(is_test).collect()
    }

    /// All sources of the workspace, without what cargo makes.
    fn sources(dir: &std::path::Path, out: &mut String) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                sources(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                out.push_str(&std::fs::read_to_string(&path).unwrap());
            }
        }
    }

    /// Whether `fn name(` stands there with a test's attribute right above, or in a table of what one test tries by name.
    fn is_a_test(code: &str, name: &str) -> bool {
        if code.contains(&format!("(\"{name}\", {name})")) {
            return true;
        }
        code.match_indices(&format!("fn {name}(")).any(|(at, _)| {
            let line = code[..at].rfind('\n').unwrap_or(0);
            let mut above = code[..line].lines().rev().take_while(|l| l.trim_start().starts_with("#["));
            above.any(|l| l.trim() == "#[test]" || l.trim().starts_with("#[tokio::test"))
        })
    }

    #[test]
    fn security_claims_name_tests_that_are_there() {
        let root = paths::workspace();
        let mut code = String::new();
        for room in ["protocol", "agent", "controller", "cross"] {
            sources(&root.join(room), &mut code);
        }
        for (page, least) in [("docs/security-model.md", 90), ("README.md", 9)] {
            let text = std::fs::read_to_string(root.join(page)).unwrap();
            let named = named_tests(&text);
            for name in &named {
                assert!(is_a_test(&code, name), "{page} names the test {name}, and there is none");
            }
            assert!(named.len() >= least, "{page} names only {} tests", named.len());
        }
    }

    #[test]
    fn a_function_without_the_attribute_is_no_test() {
        let code = "#[test]\nfn one_two_three() {}\nfn four_five_six() {}\n#[tokio::test]\nasync fn seven_eight_nine() {}";
        assert!(is_a_test(code, "one_two_three") && !is_a_test(code, "four_five_six"));
        assert!(!is_a_test(code, "not_there_at_all"));
        assert!(is_a_test("[(\"nine_ten_eleven\", nine_ten_eleven)]", "nine_ten_eleven"));
    }
}
