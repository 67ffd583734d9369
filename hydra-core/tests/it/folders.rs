//! The folder of a name never changes: every implementation agrees on these.

use hydra_core::{FolderCount, SwampName, folder_of};

#[test]
fn every_vector_holds() {
    let vectors: serde_json::Value = serde_json::from_str(include_str!("../folders.json")).unwrap();
    let vectors = vectors["vectors"].as_array().unwrap();
    assert!(vectors.len() >= 10);
    for vector in vectors {
        let name: SwampName = vector["name"].as_str().unwrap().parse().unwrap();
        assert_eq!(format!("{:016x}", name.hash()), vector["xxh64"].as_str().unwrap(), "{name}");
        for (count, folder) in vector["folder"].as_object().unwrap() {
            let count: FolderCount = count.parse().unwrap();
            assert_eq!(u64::from(folder_of(&name, count).get()), folder.as_u64().unwrap(), "{name} of {count}");
        }
    }
}

#[test]
fn names_are_found_for_a_range() {
    let count = FolderCount::new(100).unwrap();
    let base: SwampName = "jobs/queue/mail".parse().unwrap();
    let wanted = "50-74".parse().unwrap();
    let names: Vec<SwampName> = base.in_folders(&wanted, count).take(20).collect();
    assert_eq!(names.len(), 20);
    assert!(names.iter().all(|name| wanted.contains(folder_of(name, count))));
    assert_eq!(base.in_folders(&"100".parse().unwrap(), count).count(), 0, "no such folder");
}
