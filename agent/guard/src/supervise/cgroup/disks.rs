//! How fast a group may use disks: `io.max` of cgroup v2, for every disk that the device has now.
//!
//! All disks, not those below some folder: a manifest cannot know where a device keeps its folders, and what a container
//! reaches over another path, or swap, would go past. A disk that is plugged in later counts from the next start.

use super::{GroupError, not_applied, read};
use shoal_ipc::DiskLimits;
use std::fs;
use std::path::Path;

/// Sets the limits for each disk below `block` (`/sys/block`) and reads each back.
pub(super) fn limit(group: &Path, block: &Path, limits: &DiskLimits) -> Result<(), GroupError> {
    let file = group.join("io.max");
    let keys = [
        ("rbps", limits.read_bps),
        ("wbps", limits.write_bps),
        ("riops", limits.read_iops),
        ("wiops", limits.write_iops),
    ];
    let wanted: Vec<String> =
        keys.iter().filter_map(|(key, limit)| limit.map(|limit| format!("{key}={limit}"))).collect();
    for disk in disks(block)? {
        // One call a disk: the kernel takes no list.
        fs::write(&file, format!("{disk} {}", wanted.join(" ")))
            .map_err(|e| GroupError::io("write", &file, e))?;
        let found = read(&file);
        let line = found.lines().find_map(|l| l.strip_prefix(&disk)?.strip_prefix(' ')).unwrap_or_default();
        if !wanted.iter().all(|w| line.split(' ').any(|f| f == w)) {
            return Err(not_applied(file, &format!("{disk} {}", wanted.join(" ")), &line));
        }
    }
    Ok(())
}

/// `major:minor` of each disk with room; partitions have no limits of their own.
fn disks(block: &Path) -> Result<Vec<String>, GroupError> {
    let entries = fs::read_dir(block).map_err(|e| GroupError::io("read", block, e))?;
    let mut all = Vec::new();
    for entry in entries {
        let folder = entry.map_err(|e| GroupError::io("read", block, e))?.path();
        if read(&folder.join("size")).trim() != "0" {
            all.push(read(&folder.join("dev")).trim().to_owned());
        }
    }
    all.sort();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(disks: &[(&str, &str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, dev, size) in disks {
            let folder = dir.path().join(name);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("dev"), format!("{dev}\n")).unwrap();
            fs::write(folder.join("size"), format!("{size}\n")).unwrap();
        }
        dir
    }

    const LIMITS: DiskLimits =
        DiskLimits { read_bps: Some(4096), write_bps: None, read_iops: None, write_iops: Some(7) };

    #[test]
    fn a_disk_with_room_is_limited_and_an_empty_drive_is_left_out() {
        let block = block(&[("vda", "254:0", "8192"), ("loop0", "7:0", "0")]);
        let group = tempfile::tempdir().unwrap();
        limit(group.path(), block.path(), &LIMITS).unwrap();
        assert_eq!(read(&group.path().join("io.max")), "254:0 rbps=4096 wiops=7");
    }

    #[test]
    fn c3_a_disk_limit_that_reads_back_otherwise_is_limit_not_applied() {
        let block = block(&[("vda", "254:0", "8192")]);
        let group = tempfile::tempdir().unwrap();
        // A kernel that swallows the value.
        std::os::unix::fs::symlink("/dev/null", group.path().join("io.max")).unwrap();
        let e = limit(group.path(), block.path(), &LIMITS).unwrap_err();
        assert_eq!(e.code(), "limit_not_applied");
        assert!(e.to_string().contains("254:0 rbps=4096 wiops=7"), "{e}");
    }
}
