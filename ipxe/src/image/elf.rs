//! The little of ELF that an image needs: what a module or program says of itself, and a module without ballast.
//!
//! 64-bit little-endian files only (System V ABI, AMD64 supplement); anything else, and anything cut short, is an error
//! and never a panic.

/// Why bytes are not the ELF file they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// Another kind of file.
    #[error("not an ELF file for x86-64")]
    NotX86,
    /// A header or section reaches past the end, or refers to nothing.
    #[error("damaged ELF file: {0}")]
    Damaged(&'static str),
}

/// Section header fields that matter here, and the header itself.
#[derive(Debug, Clone)]
struct Section<'a> {
    name: &'a [u8],
    kind: u32,
    align: usize,
    data: &'a [u8],
    header: &'a [u8],
}

/// An ELF file, borrowed.
#[derive(Debug)]
pub struct Elf<'a> {
    header: &'a [u8],
    sections: Vec<Section<'a>>,
}

const HEADER: usize = 64;
const SECTION_HEADER: usize = 64;
/// Occupies no bytes of the file (`.bss`).
const SHT_NOBITS: u32 = 8;
/// In `.dynamic`: a library is needed.
const DT_NEEDED: u64 = 1;

/// What a module does not need to run.
///
/// `.BTF` describes types to BPF programs. The ORC tables let the kernel walk a stack through the module: without them
/// a crash report marks those lines with a question mark. Together they are a third of a driver.
const BALLAST: [&[u8]; 3] = [b".BTF", b".orc_unwind", b".orc_unwind_ip"];

impl<'a> Elf<'a> {
    /// Reads headers and section table.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ElfError> {
        // e_ident: magic, ELFCLASS64, ELFDATA2LSB; e_machine 62 is EM_X86_64.
        let header = bytes.get(..HEADER).ok_or(ElfError::NotX86)?;
        if &header[..6] != b"\x7fELF\x02\x01" || u16_at(header, 18) != Some(62) {
            return Err(ElfError::NotX86);
        }
        let damaged = ElfError::Damaged;
        let table = u64_at(header, 40).ok_or(damaged("no section table"))?;
        let (size, count, names) = (u16_at(header, 58), u16_at(header, 60), u16_at(header, 62));
        if size != Some(SECTION_HEADER as u16) {
            return Err(damaged("section headers of an unknown size"));
        }
        let mut sections = vec![];
        for i in 0..u64::from(count.unwrap_or(0)) {
            let header = slice(bytes, table.saturating_add(i * SECTION_HEADER as u64), SECTION_HEADER as u64);
            let header = header.ok_or(damaged("the section table is cut short"))?;
            let kind = u32_at(header, 4).unwrap_or(0);
            let (offset, size) = (u64_at(header, 24).unwrap_or(0), u64_at(header, 32).unwrap_or(0));
            let data = if kind == SHT_NOBITS { Some(&[][..]) } else { slice(bytes, offset, size) };
            let data = data.ok_or(damaged("a section reaches past the end"))?;
            let align = u64_at(header, 48).unwrap_or(0).max(1) as usize;
            if !align.is_power_of_two() || align > 4096 {
                return Err(damaged("a section with an alignment that cannot be"));
            }
            sections.push(Section { name: b"", kind, align, data, header });
        }
        let names = names.and_then(|i| sections.get(usize::from(i))).ok_or(damaged("no section names"))?.data;
        for section in &mut sections {
            let at = u32_at(section.header, 0).unwrap_or(0) as usize;
            section.name = string_at(names, at).ok_or(damaged("a section without a name"))?;
        }
        Ok(Self { header, sections })
    }

    /// The bytes of the section called `name`.
    pub fn section(&self, name: &str) -> Option<&'a [u8]> {
        self.sections.iter().find(|s| s.name == name.as_bytes()).map(|s| s.data)
    }

    /// `key=value` pairs of a kernel module's `.modinfo`, in order.
    pub fn modinfo(&self) -> Vec<(&'a str, &'a str)> {
        let text = self.section(".modinfo").unwrap_or_default();
        let pairs = text.split(|b| *b == 0).filter_map(|pair| std::str::from_utf8(pair).ok()?.split_once('='));
        pairs.collect()
    }

    /// The program's loader, such as `/lib64/ld-linux-x86-64.so.2`; `None` for a static program.
    pub fn interpreter(&self) -> Option<&'a str> {
        string_at(self.section(".interp")?, 0).and_then(|s| std::str::from_utf8(s).ok())
    }

    /// File names of the libraries that the program or library needs.
    pub fn needed(&self) -> Vec<&'a str> {
        let (dynamic, strings) = (self.section(".dynamic").unwrap_or_default(), self.section(".dynstr"));
        let entries = dynamic.chunks_exact(16).filter(|entry| u64_at(entry, 0) == Some(DT_NEEDED));
        let names = entries.filter_map(|entry| string_at(strings?, u64_at(entry, 8)? as usize));
        names.filter_map(|name| std::str::from_utf8(name).ok()).collect()
    }

    /// A module with its [`BALLAST`] and its signature taken off.
    ///
    /// Dropped sections keep their number and become empty, so that nothing which refers to a section by number
    /// changes. The signature would not fit the rest any more; a kernel that insists on one needs Secure Boot, which
    /// Debian's unsigned iPXE rules out anyway.
    pub fn without_ballast(&self) -> Vec<u8> {
        let dropped = |name: &[u8]| BALLAST.contains(&name.strip_prefix(b".rela").unwrap_or(name));
        let mut out = self.header.to_vec();
        let mut table = vec![];
        for section in &self.sections {
            if dropped(section.name) {
                table.extend_from_slice(&[0; SECTION_HEADER]);
                continue;
            }
            if section.kind != 0 {
                out.resize(out.len().next_multiple_of(section.align), 0);
            }
            let mut header = section.header.to_vec();
            if section.kind != 0 {
                header[24..32].copy_from_slice(&(out.len() as u64).to_le_bytes());
            }
            out.extend_from_slice(section.data);
            table.extend_from_slice(&header);
        }
        out.resize(out.len().next_multiple_of(8), 0);
        let at = (out.len() as u64).to_le_bytes();
        out[40..48].copy_from_slice(&at);
        out.extend_from_slice(&table);
        out
    }
}

fn slice(bytes: &[u8], offset: u64, size: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    bytes.get(start..start.checked_add(usize::try_from(size).ok()?)?)
}

fn string_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let rest = bytes.get(at..)?;
    rest.get(..rest.iter().position(|b| *b == 0)?)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A relocatable file with these sections, laid out one after the other.
    pub(crate) fn object(sections: &[(&str, &[u8])]) -> Vec<u8> {
        let mut names = vec![0];
        let mut out = vec![0; HEADER];
        out[..6].copy_from_slice(b"\x7fELF\x02\x01");
        out[18..20].copy_from_slice(&62_u16.to_le_bytes());
        let mut table = vec![0; SECTION_HEADER];
        let mut add = |out: &mut Vec<u8>, name: usize, data: &[u8]| {
            let mut header = [0; SECTION_HEADER];
            header[..4].copy_from_slice(&(name as u32).to_le_bytes());
            header[4] = 1;
            header[24..32].copy_from_slice(&(out.len() as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(data.len() as u64).to_le_bytes());
            header[48] = 1;
            out.extend_from_slice(data);
            table.extend_from_slice(&header);
        };
        for (name, data) in sections {
            add(&mut out, names.len(), data);
            names.extend_from_slice(name.as_bytes());
            names.push(0);
        }
        let at = names.len();
        names.extend_from_slice(b".shstrtab\0");
        add(&mut out, at, &names);
        let table_at = (out.len() as u64).to_le_bytes();
        out[40..48].copy_from_slice(&table_at);
        out[58..60].copy_from_slice(&64_u16.to_le_bytes());
        out[60..62].copy_from_slice(&(sections.len() as u16 + 2).to_le_bytes());
        out[62..64].copy_from_slice(&(sections.len() as u16 + 1).to_le_bytes());
        out.extend_from_slice(&table);
        out
    }

    #[test]
    fn a_module_says_what_it_is() {
        let bytes = object(&[(".text", b"code"), (".modinfo", b"license=GPL\0depends=a,b\0\0alias=pci:v*=x\0junk\0")]);
        let elf = Elf::parse(&bytes).expect("parses");
        assert_eq!(elf.modinfo(), [("license", "GPL"), ("depends", "a,b"), ("alias", "pci:v*=x")]);
        assert_eq!(elf.interpreter(), None);
        assert_eq!(elf.needed(), Vec::<&str>::new());
    }

    #[test]
    fn ballast_goes_and_every_section_keeps_its_number() {
        let sections: [(&str, &[u8]); 5] = [
            (".text", b"code"),
            (".orc_unwind", b"tables"),
            (".rela.orc_unwind_ip", b"relocations"),
            (".BTF", b"types"),
            (".modinfo", b"depends=\0"),
        ];
        let mut bytes = object(&sections);
        bytes.extend_from_slice(b"~Module signature appended~\n");
        let lean = Elf::parse(&bytes).expect("parses").without_ballast();
        let elf = Elf::parse(&lean).expect("parses again");
        let names: Vec<_> = elf.sections.iter().map(|s| String::from_utf8_lossy(s.name)).collect();
        assert_eq!(names, ["", ".text", "", "", "", ".modinfo", ".shstrtab"]);
        assert_eq!((elf.section(".text"), elf.section(".modinfo")), (Some(&b"code"[..]), Some(&b"depends=\0"[..])));
        assert!(lean.len() < bytes.len());
        assert!(!lean.windows(6).any(|w| w == b"tables" || w == b"~Modul"));
    }

    #[test]
    fn damaged_files_are_refused_and_never_panic() {
        let whole = object(&[(".text", b"code"), (".interp", b"/ld\0"), (".dynamic", &[1; 32])]);
        assert!(Elf::parse(b"MZ").is_err());
        for length in 0..whole.len() {
            assert!(Elf::parse(&whole[..length]).is_err(), "{length} bytes of it");
        }
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                if let Ok(elf) = Elf::parse(&bytes) {
                    let _ = (elf.modinfo(), elf.needed(), elf.interpreter(), elf.without_ballast());
                }
            }
        }
    }
}
