//! Holds docs/architecture.md to the code: every function that its flow table names is in the file beside it.

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
}
