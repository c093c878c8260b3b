//! Strategies as values: source, hash and syntax tree; and the hardened engine that all scripts are compiled and run by.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rhai::{Dynamic, Engine, EvalAltResult, OptimizationLevel, Position, Scope};

use super::syntax;

/// The longest script, in bytes: compile time grows with the square of the number of variables.
pub const MAX_SCRIPT: usize = 64 * 1024;

/// The most operations that any run may take, whatever its own limit says.
pub const MAX_OPERATIONS: u64 = 10_000_000;

/// The most operations that the constants of a script may take together.
const MAX_CONSTANT_OPERATIONS: u64 = 100_000;

/// A compiled strategy.
#[derive(Debug)]
pub struct Script {
    /// The name that policies use: the file's path relative to the policy directory.
    pub name: Arc<str>,
    /// The text.
    pub source: Arc<str>,
    /// The content hash (BLAKE3, hex, 16 digits).
    pub hash: Arc<str>,
    /// The syntax tree.
    pub ast: rhai::AST,
    /// The constants of the top level, which every function of the script sees.
    pub constants: Arc<BTreeMap<String, Dynamic>>,
    outlook: Outlook,
}

/// What a script will ask for, as far as its text says.
#[derive(Debug)]
struct Outlook {
    /// Readings named by literals: service or reference (`None`: the service itself), and metric.
    readings: Vec<(Option<String>, String)>,
    /// Metrics named by a literal that are asked of services only known when it runs.
    loose: Vec<String>,
    /// References whose candidates it lists; `None`: some that its text does not name.
    listed: Option<BTreeSet<String>>,
}

impl PartialEq for Script {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.hash == other.hash
    }
}

/// A call of a function in a script: `bound("payment")`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptCall {
    /// The function.
    pub function: String,
    /// Its arguments: the text of one that is a literal text, `None` for any other.
    pub arguments: Vec<Option<String>>,
    /// The line, beginning with 1.
    pub line: usize,
    /// The column in characters, beginning with 1.
    pub column: usize,
}

/// What is wrong with a script. No retry can mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ScriptError {
    /// What was found.
    pub message: String,
    /// The line, beginning with 1.
    pub line: usize,
    /// The column in characters, beginning with 1.
    pub column: usize,
    /// What would be right.
    pub hint: Option<String>,
}

impl ScriptError {
    fn new(message: impl Into<String>, position: Position, hint: Option<&str>) -> Self {
        Self {
            message: message.into(),
            line: position.line().unwrap_or(1),
            column: position.position().unwrap_or(1).max(1),
            hint: hint.map(str::to_string),
        }
    }
}

impl Script {
    /// Compiles a strategy: constants and functions, among them `fn plan(alarm)`. `name` is what policies call it.
    ///
    /// The constants of the top level are computed here, once, without access to readings.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place: syntax, a name that is not defined, a statement at the top level,
    /// no `fn plan(alarm)`, a constant that cannot be computed, or a source of more than [`MAX_SCRIPT`] bytes.
    pub fn compile(name: &str, source: &str) -> Result<Self, ScriptError> {
        if source.len() > MAX_SCRIPT {
            return Err(ScriptError::new(
                format!("the script is {} bytes long; at most {MAX_SCRIPT} are allowed", source.len()),
                Position::NONE,
                Some("split it into several strategies"),
            ));
        }
        COMPILER.with(|engine| Self::compile_by(engine, name, source))
    }

    fn compile_by(engine: &Engine, name: &str, source: &str) -> Result<Self, ScriptError> {
        let ast = engine.compile(source).map_err(|error| parse_error(&error))?;
        check_plan(&ast)?;
        if let Some(position) = syntax::top_level_statement(&ast) {
            return Err(ScriptError::new(
                "only constants and functions may stand at the top level of a strategy",
                position,
                Some("move this into `fn plan(alarm)`, or write `const NAME = …;`"),
            ));
        }
        let constants = constants(engine, &ast)?;
        if let Some(undefined) = syntax::undefined_name(&ast, &|name| constants.contains_key(name)) {
            return Err(ScriptError::new(
                format!("`{}` is not defined", undefined.name),
                undefined.position,
                Some("declare it with `let`, or with `const` at the top level"),
            ));
        }
        let outlook = Outlook::of(&ast);
        Ok(Self {
            name: name.into(),
            source: source.into(),
            hash: content_hash(source).into(),
            ast,
            constants: Arc::new(constants),
            outlook,
        })
    }

    /// The readings that the script names by literals, so that they can be fetched ahead: `metric("C2", "cost")` is
    /// `(Some("C2"), "cost")`, where `C2` may be a service or a reference; `metric("cost")` is `(None, "cost")`.
    pub fn literal_readings(&self) -> &[(Option<String>, String)] {
        &self.outlook.readings
    }

    /// The metrics that the script names by literals and asks of services that are only known when it runs:
    /// `metric(best, "cost")` is `cost`.
    pub fn loose_metrics(&self) -> &[String] {
        &self.outlook.loose
    }

    /// Whether the script may list the candidates of `reference`.
    pub fn may_list(&self, reference: &str) -> bool {
        self.outlook.listed.as_ref().is_none_or(|listed| listed.contains(reference))
    }

    /// Every call of a function by its name, so that what a script mentions can be checked before it runs.
    pub fn calls(&self) -> Vec<ScriptCall> {
        let call = |call: syntax::Call| ScriptCall {
            function: call.function,
            arguments: call.arguments,
            line: call.position.line().unwrap_or(1),
            column: call.position.position().unwrap_or(1),
        };
        syntax::calls(&self.ast).into_iter().map(call).collect()
    }
}

impl Outlook {
    fn of(ast: &rhai::AST) -> Self {
        let (mut readings, mut loose) = (BTreeSet::new(), BTreeSet::new());
        let mut listed = Some(BTreeSet::new());
        for call in syntax::calls(ast) {
            match (call.function.as_str(), call.arguments.as_slice()) {
                ("metric" | "reading", [Some(metric)]) => {
                    readings.insert((None, metric.clone()));
                }
                ("metric" | "reading", [Some(target), Some(metric)]) => {
                    readings.insert((Some(target.clone()), metric.clone()));
                }
                ("metric" | "reading", [None, Some(metric)]) => {
                    loose.insert(metric.clone());
                }
                ("candidates", [Some(reference)]) => {
                    listed.as_mut().map(|listed| listed.insert(reference.clone()));
                }
                ("candidates", _) => listed = None,
                _ => {}
            }
        }
        Self { readings: readings.into_iter().collect(), loose: loose.into_iter().collect(), listed }
    }
}

thread_local! {
    /// Compiles, and computes constants. Making an engine takes longer than compiling a script.
    static COMPILER: Engine = {
        let mut engine = engine();
        engine.set_max_operations(MAX_CONSTANT_OPERATIONS);
        engine
    };
}

/// The first 16 hexadecimal digits of the BLAKE3 hash of `text`.
pub fn content_hash(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..16].to_string()
}

fn check_plan(ast: &rhai::AST) -> Result<(), ScriptError> {
    let hint = Some("a strategy is a function `fn plan(alarm) { … }` that returns an array of actions");
    let mut functions: Vec<String> = Vec::new();
    for function in ast.iter_functions().filter(|f| !f.name.starts_with("anon$")) {
        if function.name == "plan" && function.params.len() == 1 {
            return Ok(());
        }
        functions.push(format!("`{}({})`", function.name, function.params.join(", ")));
    }
    functions.sort();
    let message = if functions.is_empty() {
        "there is no `fn plan(alarm)`; the script has no functions".to_string()
    } else {
        format!("there is no `fn plan(alarm)`; the script has {}", functions.join(", "))
    };
    Err(ScriptError::new(message, Position::NONE, hint))
}

fn constants(engine: &Engine, ast: &rhai::AST) -> Result<BTreeMap<String, Dynamic>, ScriptError> {
    let mut scope = Scope::new();
    engine.run_ast_with_scope(&mut scope, ast).map_err(|error| constant_error(*error))?;
    Ok(scope.iter_raw().map(|(name, _, value)| (name.to_string(), value.clone())).collect())
}

fn constant_error(mut error: EvalAltResult) -> ScriptError {
    let position = error.take_position();
    let hint = match &error {
        EvalAltResult::ErrorFunctionNotFound(..) => {
            Some("a constant cannot depend on what is known now; ask for readings in `fn plan(alarm)`")
        }
        _ => None,
    };
    ScriptError::new(format!("a constant cannot be computed: {}", lower(&error.to_string())), position, hint)
}

fn parse_error(error: &rhai::ParseError) -> ScriptError {
    let message = lower(&error.err_type().to_string());
    let hint = message
        .contains("'='")
        .then_some("to compare, write `==`; to change a variable, declare it with `let` first");
    ScriptError::new(message, error.position(), hint)
}

/// `text` with its first letter small, as messages are.
pub(crate) fn lower(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_lowercase().chain(characters).collect())
}

fn asleep() -> Result<(), Box<EvalAltResult>> {
    Err("a script never waits; there is no `sleep`".into())
}

/// A new engine with every limit set: `eval` and `sleep` are disabled, there are no modules, `print` and `debug` go nowhere.
///
/// Limits are per value and therefore small; operations are not time, so whoever runs scripts adds a deadline through
/// `on_progress`.
pub fn engine() -> Engine {
    let mut engine = Engine::new();
    // `Full` would fold calls whose arguments are constants, such as `metric("B", "cost")`, for good.
    engine.set_optimization_level(OptimizationLevel::Simple);
    engine.set_max_operations(MAX_OPERATIONS);
    engine.set_max_call_levels(32);
    engine.set_max_expr_depths(64, 32);
    engine.set_max_string_size(4096);
    engine.set_max_array_size(1000);
    engine.set_max_map_size(256);
    engine.set_max_variables(64);
    engine.set_max_functions(128);
    engine.disable_symbol("eval");
    // `sleep` is a function, not a symbol; the one registered last is the one that is called.
    engine.register_fn("sleep", |_: i64| asleep());
    engine.register_fn("sleep", |_: f64| asleep());
    engine.on_print(|_| {});
    engine.on_debug(|_, _, _| {});
    engine
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn error(source: &str) -> ScriptError {
        match Script::compile("test.rhai", source) {
            Err(error) => error,
            Ok(_) => panic!("{source} was accepted"),
        }
    }

    #[test]
    fn a_script_is_known_by_its_content() {
        let a = Script::compile("a.rhai", "fn plan(alarm) { [] }").unwrap();
        let b = Script::compile("a.rhai", "fn plan(alarm) { [ ] }").unwrap();
        assert_eq!(a.hash.len(), 16);
        assert_ne!(a, b);
        assert_eq!(a, Script::compile("a.rhai", "fn plan(alarm) { [] }").unwrap());
    }

    #[test]
    fn an_error_of_syntax_has_its_place() {
        let e = error("fn plan(alarm) {\n    let x = ;\n}");
        assert_eq!((e.line, e.column), (2, 13), "{e:?}");
        let e = error("fn plan(alarm) { [] ");
        assert_eq!(e.line, 1, "{e:?}");
    }

    #[test]
    fn a_strategy_needs_a_plan_of_one_alarm() {
        assert!(error("").message.contains("no functions"));
        assert!(error("// nothing").message.contains("no functions"));
        assert!(error("fn plan() { [] }").message.contains("`plan()`"));
        assert!(
            error("fn plan(a, b) { let f = || 1; [] } fn other(x) {}")
                .message
                .contains("`other(x)`, `plan(a, b)`")
        );
        assert!(error("fn Plan(alarm) { [] }").hint.unwrap().contains("fn plan(alarm)"));
    }

    #[test]
    fn only_constants_and_functions_stand_at_the_top_level() {
        for source in ["let x = 3;", "print(1);", "if true { 1 }", "loop {}", "x = 3;", "[1]"] {
            let e = error(&format!("fn plan(alarm) {{ [] }}\n{source}"));
            assert_eq!(e.line, 2, "{source}: {e:?}");
        }
    }

    #[test]
    fn constants_are_computed_once_and_without_readings() {
        let script = Script::compile(
            "t",
            "const LIMIT = 2 + 3; const TWICE = twice(LIMIT); const LIST = [1, 2];
             fn twice(x) { x * 2 }
             fn plan(alarm) { if LIMIT > TWICE { [] } else { LIST.map(|x| x + LIMIT); [] } }",
        )
        .unwrap();
        assert_eq!(script.constants["LIMIT"].as_int(), Ok(5));
        assert_eq!(script.constants["TWICE"].as_int(), Ok(10));
        let e = error("const A = metric(\"cost\");\nfn plan(alarm) { [] }");
        assert!(e.hint.is_some_and(|hint| hint.contains("plan(alarm)")), "{}", e.message);
        assert_eq!(e.line, 1);
        assert!(
            error("const A = forever(); fn forever() { loop {} }\nfn plan(alarm) { [] }")
                .message
                .contains("operations")
        );
    }

    #[test]
    fn a_name_that_is_not_defined_is_found_before_anything_runs() {
        let e = error("fn plan(alarm) {\n    let best = 3;\n    if bets > 2 { [] } else { [] }\n}");
        assert_eq!((e.message.as_str(), e.line, e.column), ("`bets` is not defined", 3, 8));
        let e = error("fn plan(alarm) { let l = 1; [1].filter(|x| x > limit); [] }");
        assert_eq!(e.message, "`limit` is not defined");
        for fine in [
            "fn plan(alarm) { let l = 1; [1].filter(|x| [2].filter(|y| y > l + x).len() > 0); [] }",
            "fn plan(alarm) { for (x, i) in [1] { print(x + i); } try { throw 1 } catch (e) { print(e); } [] }",
            "fn helper(x) { x } fn plan(alarm) { let f = helper; [1].map(f); [1].map(helper); [] }",
            "const A = 1; fn plan(alarm) { let m = #{a: A, f: |y| this.a + y + A}; m.f(1); `${A} ${m.a}`; [] }",
            "fn plan(alarm) { let x = loop { break 3; }; const Y = x; do { x -= 1; } while x > Y; [].map(|z| z + Y); [] }",
            "fn plan(alarm) { for i in 0..3 { for j in [1].filter(|k| k > i) { let q = || i + j; q.call(); } } [] }",
            "fn plan(alarm) { let f = |a| |b| a + b; f.call(1).call(2); if let_x() { } [] } fn let_x() { true }",
            "fn plan(alarm) { switch alarm.kind { \"a\" | \"b\" if alarm.at > 1 => [], 1..5 => [], _ => [] } }",
            "fn plan(alarm) { let x = (); let y = x ?? 2; alarm?.values?.cost; x = y; let x = x + 1; [] }",
            "fn plan(alarm) { let a = 1; let g = || { let a = 2; || a }; fn_at(|| a); [] } fn fn_at(f) { f.call() }",
            "fn plan(alarm) { let x = 1; { let y = x; let f = || y + x; f.call(); } switch x { 1 => [], _ => [] } }",
        ] {
            assert!(Script::compile("t", fine).is_ok(), "{fine}: {:?}", Script::compile("t", fine).err());
        }
    }

    #[test]
    fn readings_named_by_literals_are_found_wherever_they_stand() {
        let script = Script::compile(
            "t",
            r#"fn cost(s) { metric(s, "cost") + metric("own") }
               fn plan(alarm) {
                   metric("B", "cost");
                   let x = [1].map(|c| reading("C" + "2", "cost"));
                   if metric("B", "cost") > metric("C1", "cost") { [] } else { [set("x", metric("p99"))] }
               }"#,
        )
        .unwrap();
        let service = |s: &str| Some(s.to_string());
        assert_eq!(
            script.literal_readings(),
            [
                (None, "own".into()),
                (None, "p99".into()),
                (service("B"), "cost".into()),
                (service("C1"), "cost".into()),
                (service("C2"), "cost".into()),
            ]
        );
        assert_eq!(script.loose_metrics(), ["cost"]);
        assert!(!script.may_list("c"));
        let call = script.calls().into_iter().find(|c| c.function == "set").unwrap();
        assert_eq!((call.arguments, call.line), (vec![Some("x".to_string()), None], 5));
    }

    #[test]
    fn metrics_asked_of_services_yet_unknown_are_found_with_the_references_that_are_listed() {
        let script = Script::compile(
            "t",
            r#"fn cost(s) { metric(s, "cost") + reading(s, "load").value }
               fn plan(alarm) { for s in candidates("c") { cost(s); metric(s, s + "x"); } [] }"#,
        )
        .unwrap();
        assert_eq!(script.loose_metrics(), ["cost", "load"]);
        assert!(script.may_list("c") && !script.may_list("d"));
        let script = Script::compile("t", "fn plan(alarm) { candidates(alarm.slo); [] }").unwrap();
        assert!(script.may_list("anything"));
    }

    #[test]
    fn the_source_is_bounded() {
        let source = format!("fn plan(alarm) {{ [] }} // {}", "x".repeat(MAX_SCRIPT));
        assert!(error(&source).message.contains("65536"));
    }

    #[test]
    fn eval_sleep_and_modules_are_not_there() {
        for call in ["eval(\"1\")", "sleep(1)", "sleep(0.5)"] {
            let source = format!("const A = {call}; fn plan(alarm) {{ [] }}");
            assert!(Script::compile("t", &source).is_err(), "{call}");
        }
        assert!(Script::compile("t", "import \"x\" as y; fn plan(alarm) { [] }").is_err());
    }

    #[test]
    fn depth_is_bounded_also_on_a_small_stack() {
        let run = || {
            for (open, close) in [
                ("(", ")"),
                ("[", "]"),
                ("#{a:", "}"),
                ("{", "}"),
                ("-", ""),
                ("!", ""),
                ("if true {", "}"),
                ("|x| ", ""),
                ("a.b", ""),
                ("a[0]", ""),
                ("1+", "1"),
                ("f(", ")"),
                ("`${", "}`"),
                ("/*", "*/"),
                ("while true {", "}"),
                ("try {", "} catch {}"),
                ("switch 1 { 1 => ", "}"),
                (".a", ""),
                ("[0]", ""),
                (".f()", ""),
                ("?.a", ""),
                ("(1)", ""),
                (" ?? 1", ""),
                (" && a", ""),
                ("else if true {}", ""),
                ("let a = 1;", ""),
                ("const A = 1;", ""),
                ("return ", ""),
                ("throw ", ""),
                ("fn f() {", "}"),
                ("a=", ""),
                ("..", ""),
                ("do {", "} while true"),
            ] {
                for n in [60, 5000] {
                    let nest = format!("{}1{}", open.repeat(n), close.repeat(n));
                    for source in [
                        format!("fn plan(a) {{ {nest} }}"),
                        format!("fn plan(a) {{ let x = a{nest}; }}"),
                        format!("fn plan(a) {{ a{}; }}", open.repeat(n)),
                        format!("fn plan(a) {{ if true {{}} {} }}", open.repeat(n)),
                        format!("const A = {nest}; fn plan(a) {{ }}"),
                    ] {
                        let _ = Script::compile("t", &source);
                    }
                }
            }
        };
        std::thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap();
    }

    proptest! {
        #[test]
        fn no_text_makes_the_compiler_panic(source in any::<String>()) {
            if let Err(e) = Script::compile("t", &source) {
                prop_assert!(e.line >= 1 && e.column >= 1 && !e.message.is_empty());
            }
        }

        #[test]
        fn no_sequence_of_words_makes_the_compiler_panic(words in prop::collection::vec(prop::sample::select(vec![
            "fn", "plan", "(", ")", "alarm", "{", "}", "let", "=", ";", "x", "|", "||", "if", "else", "for", "in", "1", ".",
            "[", "]", "#{", ":", ",", "\"a\"", "const", "switch", "=>", "_", "try", "catch", "throw", "return", "`", "${",
        ]), 0..30)) {
            let _ = Script::compile("t", &words.join(" "));
        }
    }
}
