//! Rules for Rust files.

use std::path::Path;

use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::Finding;

const MAX_FILE_LINES: usize = 500;
const MAX_FUNCTION_LINES: usize = 60;

/// Where `unsafe` may stand: the kernels, the one memory map, and the test double of a driver.
const UNSAFE_ALLOWED: &[&str] =
    &["crates/ferrum-kernels/", "crates/ferrum-models/src/mmap.rs", "crates/ferrum-cuda-emulator/"];

/// Where something may be shared by the whole process: the test double of a driver, since a process
/// loads a driver once.
const GLOBALS_ALLOWED: &[&str] = &["crates/ferrum-cuda-emulator/"];

/// Where the environment is read: the resolution of a configuration.
const ENV_ALLOWED: &[&str] =
    &["crates/ferrum-cli/src/", "crates/ferrum-hub/src/config.rs", "xtask/"];

/// Types that make a `static` mutable, so that it would be shared by the whole process.
const SHARED_STATE: &[&str] =
    &["Atomic", "Cell", "LazyLock", "Mutex", "OnceLock", "RwLock", "UnsafeCell"];

/// Checks one file.
pub(super) fn check(file: &Path, text: &str) -> Vec<Finding> {
    let path = file.display().to_string();
    let mut rules =
        Rules { path: path.clone(), test_file: is_test_file(&path), ..Rules::default() };
    if !text.starts_with("//!") && !path.starts_with("fuzz/") {
        rules.add_at(1, "does not begin with a module comment `//!`");
    }
    let lines = text.lines().count();
    if lines > MAX_FILE_LINES {
        rules.add_at(lines, &format!("{lines} lines; at most {MAX_FILE_LINES}"));
    }
    match syn::parse_file(text) {
        Ok(tree) => rules.visit_file(&tree),
        Err(error) => rules.add(error.span(), "does not parse"),
    }
    rules.findings
}

fn is_test_file(path: &str) -> bool {
    path.contains("/tests/")
        || path.contains("/benches/")
        || path.ends_with("tests.rs")
        || path.starts_with("fuzz/")
}

#[derive(Default)]
struct Rules {
    path: String,
    test_file: bool,
    /// Depth of `#[cfg(test)]` modules.
    in_tests: usize,
    findings: Vec<Finding>,
}

impl Rules {
    fn add(&mut self, span: Span, what: &str) {
        self.add_at(span.start().line, what);
    }

    fn add_at(&mut self, line: usize, what: &str) {
        let place = format!("{}:{line}", self.path);
        self.findings.push(Finding { place, what: what.into() });
    }

    fn within(&self, allowed: &[&str]) -> bool {
        allowed.iter().any(|prefix| self.path.starts_with(prefix))
    }

    fn is_test(&self) -> bool {
        self.test_file || self.in_tests > 0
    }

    fn function(&mut self, name: &syn::Ident, block: &syn::Block) {
        let lines = block.span().end().line - block.span().start().line + 1;
        if lines > MAX_FUNCTION_LINES && !self.is_test() {
            let what = format!("fn {name} has {lines} lines; at most {MAX_FUNCTION_LINES}");
            self.add(name.span(), &what);
        }
    }

    fn unsafe_at(&mut self, span: Span) {
        if !self.within(UNSAFE_ALLOWED) {
            self.add(span, "unsafe outside ferrum-kernels");
        }
    }
}

fn mentions_cfg(attributes: &[syn::Attribute], word: &str) -> bool {
    attributes.iter().filter(|a| a.path().is_ident("cfg")).any(|a| match &a.meta {
        syn::Meta::List(list) => list.tokens.to_string().split_whitespace().any(|t| t == word),
        _ => false,
    })
}

impl<'ast> Visit<'ast> for Rules {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        let test = usize::from(mentions_cfg(&module.attrs, "test"));
        self.in_tests += test;
        visit::visit_item_mod(self, module);
        self.in_tests -= test;
    }

    fn visit_item_fn(&mut self, f: &'ast syn::ItemFn) {
        self.function(&f.sig.ident, &f.block);
        visit::visit_item_fn(self, f);
    }

    fn visit_impl_item_fn(&mut self, f: &'ast syn::ImplItemFn) {
        self.function(&f.sig.ident, &f.block);
        visit::visit_impl_item_fn(self, f);
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        if let Some(token) = &signature.unsafety {
            self.unsafe_at(token.span);
        }
        visit::visit_signature(self, signature);
    }

    fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
        self.unsafe_at(block.unsafe_token.span);
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if let Some(token) = &item.unsafety {
            self.unsafe_at(token.span);
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_item_static(&mut self, item: &'ast syn::ItemStatic) {
        let mutable = matches!(item.mutability, syn::StaticMutability::Mut(_));
        let shared = type_words(&item.ty);
        let shared = shared.iter().any(|w| SHARED_STATE.iter().any(|s| w.starts_with(s)));
        if (mutable || shared) && !self.within(GLOBALS_ALLOWED) {
            self.add(item.span(), "a process-wide global");
        }
        visit::visit_item_static(self, item);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let words: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        let reads_env = words.windows(2).any(|w| {
            w[0] == "env" && matches!(w[1].as_str(), "var" | "var_os" | "vars" | "vars_os")
        });
        if reads_env && !self.is_test() && !self.within(ENV_ALLOWED) {
            self.add(path.span(), "reads the environment outside the configuration");
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        let name = item.path.segments.last().map(|s| s.ident.to_string()).unwrap_or_default();
        if matches!(name.as_str(), "todo" | "unimplemented" | "dbg") {
            self.add(item.span(), &format!("{name}! is left"));
        }
        visit::visit_macro(self, item);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if let syn::Meta::List(list) = &attribute.meta
            && (list.path.is_ident("cfg") || list.path.is_ident("cfg_attr"))
            && list.tokens.to_string().split_whitespace().any(|t| t == "feature")
        {
            self.add(attribute.span(), "a feature flag; a backend is chosen at run time");
        }
        visit::visit_attribute(self, attribute);
    }
}

/// Identifiers in a type.
fn type_words(ty: &syn::Type) -> Vec<String> {
    struct Words(Vec<String>);
    impl<'ast> Visit<'ast> for Words {
        fn visit_ident(&mut self, ident: &'ast syn::Ident) {
            self.0.push(ident.to_string());
        }
    }
    let mut words = Words(Vec::new());
    words.visit_type(ty);
    words.0
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::check;

    fn findings(path: &str, text: &str) -> Vec<String> {
        check(Path::new(path), text).into_iter().map(|f| f.what).collect()
    }

    #[test]
    fn a_plain_file_passes() {
        let text = "//! A file.\n\nfn f() -> u8 {\n    1\n}\n";
        assert!(findings("crates/ferrum-engine/src/f.rs", text).is_empty());
    }

    #[test]
    fn each_rule_is_found() {
        let rules = [
            ("fn f() {}\n", "module comment"),
            ("//! A file.\nfn f() { unsafe { g() } }\n", "unsafe"),
            ("//! A file.\nstatic A: Mutex<u8> = Mutex::new(0);\n", "global"),
            ("//! A file.\nfn f() { std::env::var(\"A\"); }\n", "environment"),
            ("//! A file.\nfn f() { todo!() }\n", "todo"),
            ("//! A file.\n#[cfg(feature = \"x\")]\nfn f() {}\n", "feature"),
        ];
        for (text, word) in rules {
            let found = findings("crates/ferrum-engine/src/f.rs", text);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(found[0].contains(word), "{found:?}");
        }
        let long = format!("//! A file.\nfn f() {{\n{}}}\n", "    g();\n".repeat(61));
        assert!(findings("crates/ferrum-engine/src/f.rs", &long)[0].contains("lines"));
        let long = format!("//! A file.\n{}", "// x\n".repeat(501));
        assert!(findings("crates/ferrum-engine/src/f.rs", &long)[0].contains("lines"));
    }

    #[test]
    fn allowed_places_are_allowed() {
        let text = "//! A file.\nfn f() { unsafe { g() } }\n";
        assert!(findings("crates/ferrum-kernels/src/f.rs", text).is_empty());
        let text = "//! A file.\nfn f() { std::env::var(\"A\"); }\n";
        assert!(findings("crates/ferrum-cli/src/config.rs", text).is_empty());
    }
}
