//! The objects that an index names: what git must find for the index to be of use.

use super::{Odd, take, take_entry, take_u32};

/// An entry of this kind names a commit of a submodule, which is not in this repository.
const GITLINK: u32 = 0o160_000;
const KIND: u32 = 0o170_000;

/// A second flag: the path is to be added, and nothing of it is there yet.
const INTENT_TO_ADD: u16 = 0x2000;

/// The names of all objects of an index whose names have `hash_len` bytes: contents of its entries,
/// those of each side of a conflict too, the trees that it remembers, and what a solved conflict
/// was. Not sorted; some may come more than once.
pub(in crate::workspace) fn named_objects(
    index: &[u8],
    hash_len: usize,
) -> Result<Vec<&[u8]>, Odd> {
    all(index, hash_len).ok_or(Odd::Unreadable)
}

fn all(index: &[u8], hash_len: usize) -> Option<Vec<&[u8]>> {
    let mut rest = index.strip_prefix(b"DIRC")?;
    let version = take_u32(&mut rest)?;
    let count = take_u32(&mut rest)?;
    let mut found = Vec::new();
    let mut name = Vec::new();
    for _ in 0..count {
        let entry = take_entry(&mut rest, version, hash_len, &mut name)?;
        if entry.mode & KIND != GITLINK && entry.extended & INTENT_TO_ADD == 0 {
            found.push(entry.object);
        }
    }
    while rest.len() > hash_len {
        let signature = take(&mut rest, 4)?;
        let length = usize::try_from(take_u32(&mut rest)?).ok()?;
        let extension = take(&mut rest, length)?;
        match signature {
            b"TREE" => trees(extension, hash_len, &mut found)?,
            b"REUC" => solved(extension, hash_len, &mut found)?,
            _ => {}
        }
    }
    Some(found)
}

/// Each tree: a name, NUL, the number of its entries (negative if it is not known any more), a
/// blank, that of trees below it, LF, and its object if it is known.
fn trees<'a>(mut rest: &'a [u8], hash_len: usize, found: &mut Vec<&'a [u8]>) -> Option<()> {
    while !rest.is_empty() {
        until(&mut rest, 0)?;
        let known = !until(&mut rest, b' ')?.starts_with(b"-");
        until(&mut rest, b'\n')?;
        if known {
            found.push(take(&mut rest, hash_len)?);
        }
    }
    Some(())
}

/// Each path: its name, NUL, three octal modes, each with a NUL, and an object for each mode that
/// is not 0.
fn solved<'a>(mut rest: &'a [u8], hash_len: usize, found: &mut Vec<&'a [u8]>) -> Option<()> {
    while !rest.is_empty() {
        until(&mut rest, 0)?;
        let mut sides = [false; 3];
        let mut links = [false; 3];
        for (side, link) in sides.iter_mut().zip(&mut links) {
            let mode = std::str::from_utf8(until(&mut rest, 0)?).ok()?;
            let mode = u32::from_str_radix(mode, 8).ok()?;
            (*side, *link) = (mode != 0, mode & KIND == GITLINK);
        }
        for (side, link) in sides.into_iter().zip(links) {
            if side {
                let object = take(&mut rest, hash_len)?;
                if !link {
                    found.push(object);
                }
            }
        }
    }
    Some(())
}

/// What comes before the next `end`, which is taken as well.
fn until<'a>(rest: &mut &'a [u8], end: u8) -> Option<&'a [u8]> {
    let at = rest.iter().position(|byte| *byte == end)?;
    let taken = take(rest, at)?;
    take(rest, 1)?;
    Some(taken)
}
