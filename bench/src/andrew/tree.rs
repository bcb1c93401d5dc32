//! The source tree that the benchmark copies and compiles.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

include!(concat!(env!("OUT_DIR"), "/lua_sources.rs"));

/// The whole tree is held in memory, so that only the target's file system is measured.
const TREE_BYTES_MAX: u64 = 1 << 30;

/// Our main program: `lua-src` ships the interpreter without one.
const MAIN_SOURCE: (&str, &[u8]) = ("main/andrew.c", include_bytes!("../../assets/andrew.c"));
/// What that program prints.
const MAIN_OUTPUT: &str = "andrew Lua 5.4 37435\n";

/// Which directory of the tree holds which of Lua's modules. With their parents and the headers'
/// directory they are 20, as many as the original benchmark's tree had.
const LUA_LAYOUT: &[(&str, &[&str])] = &[
    ("core/api", &["lapi"]),
    ("core/call", &["ldo", "lfunc", "ldebug"]),
    ("core/gc", &["lgc", "lmem"]),
    ("core/object", &["lobject", "ltm", "lctype"]),
    ("core/state", &["lstate"]),
    ("core/string", &["lstring"]),
    ("core/table", &["ltable"]),
    ("core/vm", &["lvm", "lopcodes"]),
    ("compiler/code", &["lcode"]),
    ("compiler/dump", &["ldump", "lundump"]),
    ("compiler/lex", &["llex", "lzio"]),
    ("compiler/parse", &["lparser"]),
    ("lib/base", &["lauxlib", "lbaselib", "lcorolib", "linit", "loadlib"]),
    ("lib/data", &["lstrlib", "ltablib", "lutf8lib", "lmathlib"]),
    ("lib/system", &["liolib", "loslib", "ldblib"]),
];
/// Where Lua's headers lie.
const LUA_HEADERS: &str = "include";

/// How a tree is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Build {
    /// Every `.c` file is compiled, one at a time, and all objects are linked to one program.
    Compile {
        /// What the program must print; any output will do if `None`.
        output: Option<String>,
    },
    /// `make -j1` in the tree's root.
    Make,
}

/// A source tree, with relative paths.
#[derive(Debug)]
pub(crate) struct Tree {
    /// For people: which tree this is.
    pub name: String,
    /// Every directory below the root, parents first.
    pub dirs: Vec<PathBuf>,
    /// Every file and its contents.
    pub files: BTreeMap<PathBuf, Source>,
    /// How it is built.
    pub build: Build,
}

/// A source file.
#[derive(Debug)]
pub(crate) struct Source {
    pub bytes: Vec<u8>,
    /// Scripts that a Makefile runs must stay executable.
    pub executable: bool,
}

impl Tree {
    /// The tree that is compiled into this program: Lua 5.4, sorted into directories.
    pub(crate) fn lua() -> Self {
        let mut files = BTreeMap::new();
        for &(name, bytes) in LUA_SOURCES.iter().chain([&MAIN_SOURCE]) {
            let source = Source { bytes: bytes.to_vec(), executable: false };
            files.insert(lua_path(name), source);
        }
        Self {
            name: format!("{LUA_VERSION} (from the crate lua-src)"),
            dirs: parents(files.keys()),
            files,
            build: Build::Compile { output: Some(MAIN_OUTPUT.to_owned()) },
        }
    }

    /// Reads the tree under `root`: one with a Makefile, or one of C files.
    ///
    /// # Errors
    /// If it cannot be read, holds anything but files and directories, is larger than 1 GiB, or
    /// gives nothing to build.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let mut tree = Self {
            name: root.display().to_string(),
            dirs: Vec::new(),
            files: BTreeMap::new(),
            build: Build::Make,
        };
        let mut budget = TREE_BYTES_MAX;
        tree.read_dir(root, Path::new(""), &mut budget)
            .with_context(|| format!("cannot use {} as the source tree", root.display()))?;
        let makefiles = ["GNUmakefile", "makefile", "Makefile"];
        if !makefiles.iter().any(|name| tree.files.contains_key(Path::new(name))) {
            ensure!(
                tree.c_files().next().is_some(),
                "{} has neither a Makefile nor a .c file: there is nothing to build",
                root.display()
            );
            tree.build = Build::Compile { output: None };
        }
        Ok(tree)
    }

    fn read_dir(&mut self, root: &Path, dir: &Path, budget: &mut u64) -> Result<()> {
        let mut names: Vec<_> = fs::read_dir(root.join(dir))
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
            .with_context(|| format!("cannot read the directory {}", root.join(dir).display()))?;
        names.sort();
        for name in names {
            let path = dir.join(name);
            let full = root.join(&path);
            let metadata = full.symlink_metadata()?;
            if metadata.is_dir() {
                self.dirs.push(path.clone());
                self.read_dir(root, &path, budget)?;
                continue;
            }
            ensure!(metadata.is_file(), "{} is neither a file nor a directory", full.display());
            *budget = budget
                .checked_sub(metadata.len())
                .context("it is larger than 1 GiB; give a smaller one, or --copies")?;
            let bytes =
                fs::read(&full).with_context(|| format!("cannot read {}", full.display()))?;
            self.files.insert(path, Source { bytes, executable: is_executable(&metadata) });
        }
        Ok(())
    }

    /// Writes the tree to the new directory `root`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn write(&self, root: &Path) -> Result<()> {
        fs::create_dir(root).with_context(|| format!("cannot make {}", root.display()))?;
        for dir in &self.dirs {
            fs::create_dir(root.join(dir))?;
        }
        for (path, source) in &self.files {
            fs::write(root.join(path), &source.bytes)?;
        }
        Ok(())
    }

    /// The C files, which a compiled tree makes objects of.
    pub(crate) fn c_files(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(PathBuf::as_path).filter(|path| has_extension(path, "c"))
    }

    /// The directories in which headers lie.
    pub(crate) fn include_dirs(&self) -> Vec<&Path> {
        let headers = self.files.keys().filter(|path| has_extension(path, "h"));
        let mut dirs: Vec<&Path> = headers.filter_map(|path| path.parent()).collect();
        dirs.sort();
        dirs.dedup();
        dirs
    }

    /// The sizes of all files together, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.files.values().map(|source| source.bytes.len()).sum()
    }
}

fn has_extension(path: &Path, wanted: &str) -> bool {
    path.extension().is_some_and(|extension| extension == wanted)
}

fn is_executable(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    metadata.permissions().mode() & 0o111 != 0
}

/// Where a file of Lua's flat source folder lies in the tree.
fn lua_path(name: &str) -> PathBuf {
    let stem = name.strip_suffix(".c");
    let module = |stem| LUA_LAYOUT.iter().find(|(_, modules)| modules.contains(&stem));
    match stem.and_then(module) {
        Some((dir, _)) => Path::new(dir).join(name),
        None if name.ends_with(".h") => Path::new(LUA_HEADERS).join(name),
        None => PathBuf::from(name),
    }
}

/// Every directory that the `paths` lie in, parents first.
fn parents<'a>(paths: impl Iterator<Item = &'a PathBuf>) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = paths
        .flat_map(|path| path.ancestors().skip(1))
        .filter(|dir| !dir.as_os_str().is_empty())
        .map(Path::to_owned)
        .collect();
    dirs.sort();
    dirs.dedup();
    dirs
}

/// Chooses the tree: the one at `path`, or Lua.
pub(crate) fn choose(path: Option<&Path>) -> Result<Tree> {
    match path {
        Some(path) if !path.is_dir() => bail!("--tree {}: not a directory", path.display()),
        Some(path) => Tree::read(path),
        None => Ok(Tree::lua()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lua_tree_is_whole_and_every_module_has_its_directory() {
        let tree = Tree::lua();
        assert!(tree.files.len() >= 60, "{} files", tree.files.len());
        assert!(tree.bytes() > 800_000, "{} bytes", tree.bytes());
        assert_eq!(tree.dirs.len(), 20, "{:?}", tree.dirs);
        let unsorted: Vec<_> =
            tree.files.keys().filter(|path| path.components().count() == 1).collect();
        assert!(unsorted.is_empty(), "no directory named for {unsorted:?}");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path().join("lua");
        tree.write(&root).expect("it is written");
        let read = Tree::read(&root).expect("it is read");
        assert_eq!((read.dirs.len(), read.bytes()), (tree.dirs.len(), tree.bytes()));
    }

    #[test]
    fn a_tree_on_disk_is_read_with_modes_and_build() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir_all(dir.path().join("a/b")).expect("mkdir");
        fs::write(dir.path().join("a/b/x.c"), "int main(void) { return 0; }").expect("write");
        let tree = Tree::read(dir.path()).expect("a C tree");
        assert_eq!(tree.dirs, [Path::new("a"), Path::new("a/b")]);
        assert_eq!(tree.build, Build::Compile { output: None });
        fs::write(dir.path().join("Makefile"), "all:\n").expect("write");
        assert_eq!(Tree::read(dir.path()).expect("a make tree").build, Build::Make);
    }

    #[test]
    fn a_tree_with_nothing_to_build_or_with_links_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert!(Tree::read(dir.path()).is_err());
        fs::write(dir.path().join("x.c"), "").expect("write");
        assert!(Tree::read(dir.path()).is_ok());
        std::os::unix::fs::symlink("x.c", dir.path().join("y.c")).expect("symlink");
        let error = format!("{:#}", Tree::read(dir.path()).expect_err("a link"));
        assert!(error.contains("y.c"), "{error}");
    }
}
