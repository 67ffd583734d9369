//! From the text of a page to what is to be done.

/// What a page asks for, in its order.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) steps: Vec<Step>,
}

/// One thing to do.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// A command.
    Run(Command),
    /// A file to be written.
    File { name: String, text: String },
}

/// A command, as somebody would paste it.
#[derive(Debug, PartialEq)]
pub(crate) struct Command {
    /// The line of the page.
    pub(crate) line: usize,
    pub(crate) text: String,
    /// What the comment behind it says, and those on the lines below it.
    pub(crate) comments: Vec<String>,
    /// It is not shown to readers.
    pub(crate) is_hidden: bool,
}

impl Page {
    /// The steps of a page.
    ///
    /// # Errors
    /// Where a fence, a comment or a quote is not closed.
    pub(crate) fn parse(text: &str) -> Result<Page, String> {
        let mut steps = Vec::new();
        let mut lines = text.lines().enumerate();
        while let Some((number, line)) = lines.next() {
            if let Some(info) = line.strip_prefix("```") {
                let block = block(&mut lines, |line| line == "```")
                    .ok_or_else(|| format!("the fence of line {} is not closed", number + 1))?;
                match info {
                    "sh" => steps.extend(commands(&block, number + 2, false)?),
                    "toml" => steps.extend(file(&block)),
                    _ => {}
                }
            } else if line.trim_end() == "<!-- sh" {
                let block = block(&mut lines, |line| line.trim_end() == "-->")
                    .ok_or_else(|| format!("the comment of line {} is not closed", number + 1))?;
                steps.extend(commands(&block, number + 2, true)?);
            }
        }
        Ok(Page { steps })
    }
}

/// Every fence with its line, what stands behind the ticks, and its text.
pub(crate) fn fences(text: &str) -> Vec<(usize, String, String)> {
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if let Some(info) = line.strip_prefix("```") {
            let text = block(&mut lines, |line| line == "```").unwrap_or_default().join("\n");
            found.push((number + 1, info.to_owned(), text));
        }
    }
    found
}

fn block<'t>(
    lines: &mut impl Iterator<Item = (usize, &'t str)>,
    is_end: impl Fn(&str) -> bool,
) -> Option<Vec<&'t str>> {
    let mut block = Vec::new();
    loop {
        match lines.next()?.1 {
            line if is_end(line) => return Some(block),
            line => block.push(line),
        }
    }
}

/// A table of TOML that begins with the name of its file.
fn file(block: &[&str]) -> Option<Step> {
    let first = block.first()?.strip_prefix("# ")?;
    let name = first.split([' ', ',']).next().filter(|name| name.ends_with(".toml"))?;
    Some(Step::File { name: name.to_owned(), text: block.join("\n") + "\n" })
}

/// The commands of a block: one a line, unless a quote or a backslash goes on.
fn commands(block: &[&str], first: usize, is_hidden: bool) -> Result<Vec<Step>, String> {
    let mut commands: Vec<Command> = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (index, line) in block.iter().enumerate() {
        let (begun, mut text) = open.take().unwrap_or((first + index, String::new()));
        if text.is_empty() && (line.trim().is_empty() || line.trim_start().starts_with('#')) {
            let said = line.trim().trim_start_matches('#').trim().to_owned();
            if let Some(command) = commands.last_mut().filter(|_| !said.is_empty()) {
                command.comments.push(said);
            }
            continue;
        }
        text.push_str(line);
        match end_of_command(&text) {
            End::Open => open = Some((begun, text + "\n")),
            End::At(end) => {
                let said = text[end..].trim().trim_start_matches('#').trim().to_owned();
                let comments = Some(said).filter(|said| !said.is_empty()).into_iter().collect();
                commands.push(Command { line: begun, text: text[..end].trim_end().to_owned(), comments, is_hidden });
            }
        }
    }
    match open {
        Some((line, _)) => Err(format!("the command of line {line} has no end")),
        None => Ok(commands.into_iter().map(Step::Run).collect()),
    }
}

/// Where a command ends: before its comment, or not yet.
#[derive(Debug, PartialEq)]
enum End {
    At(usize),
    Open,
}

fn end_of_command(text: &str) -> End {
    let mut quote = None;
    let mut before = ' ';
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match (quote, character) {
            (None | Some('"'), '\\') => {
                let Some(_escaped) = characters.next() else { return End::Open };
            }
            (None, '\'' | '"') => quote = Some(character),
            (Some(open), _) if open == character => quote = None,
            (None, '#') if before.is_whitespace() => return End::At(at),
            _ => {}
        }
        before = character;
    }
    if quote.is_some() { End::Open } else { End::At(text.len()) }
}

#[test]
fn commands_end_where_a_shell_ends_them() {
    assert_eq!(end_of_command("curl a#b 'c # d' \"e # f\"  # g"), End::At(26));
    assert_eq!(end_of_command("curl -d '{"), End::Open);
    assert_eq!(end_of_command("curl \\"), End::Open);
    assert_eq!(end_of_command("echo \"a\\\" # b\" c"), End::At(16));
    let page = "text\n```sh\ncurl a   # \"x\"\n# 1\n\ncurl -d '{\n}' b &\n```\n```sh (not run: why)\ncurl c\n```\n\
                <!-- sh\nd\n-->\n```toml\n# e.toml, for f\ng = 1\n```\n";
    let run = |line, text: &str, comments: &[&str], is_hidden| {
        let comments = comments.iter().map(|&comment| comment.to_owned()).collect();
        Step::Run(Command { line, text: text.to_owned(), comments, is_hidden })
    };
    assert_eq!(
        Page::parse(page).expect("a page").steps,
        [
            run(3, "curl a", &["\"x\"", "1"], false),
            run(6, "curl -d '{\n}' b &", &[], false),
            run(13, "d", &[], true),
            Step::File { name: "e.toml".to_owned(), text: "# e.toml, for f\ng = 1\n".to_owned() },
        ]
    );
    assert!(Page::parse("```sh\ncurl 'a\n```\n").is_err() && Page::parse("```sh\n").is_err());
}
