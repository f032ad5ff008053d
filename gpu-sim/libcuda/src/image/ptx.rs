//! PTX text: kernels, their parameters, variables, and the instructions that [`super::cost`] weighs.
//!
//! Grammar: NVIDIA, *PTX ISA*, "Syntax", "State Spaces", "Kernel Function Directives". The reader knows what the figures need
//! and steps over the rest, so that text of a newer PTX version still loads.

use std::collections::HashMap;

use super::lines::Header;
use super::{GlobalImage, Image, KernelImage, Param, Unreadable, cost, doom};

/// Bytes of machine code that one PTX instruction is taken to become.
const CODE_BYTES_PER_INSTRUCTION: u64 = 16;

/// Reads PTX for a device of `capability`; text after the first NUL is ignored.
pub(super) fn read(bytes: &[u8], capability: u32) -> Result<Image, Unreadable> {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or(&[]);
    let text = std::str::from_utf8(bytes).map_err(|_| Unreadable::Image)?;
    let (header, text) = Header::take(text);
    let ptx_version = header.version.ok_or(Unreadable::Image)?;
    let target = header
        .target
        .filter(|target| *target <= capability)
        .ok_or(Unreadable::Ptx)?;
    let words = words(&text);
    let module = Module::parse(&words).ok_or(Unreadable::Ptx)?;
    Ok(module.image(target, ptx_version))
}

const PUNCTUATION: &str = ",;{}()[]:=<>+|";

/// Words and single punctuation characters; a quoted string is one word.
fn words(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => rest[1..].find('"').map_or(rest.len(), |end| end + 2),
            _ if PUNCTUATION.contains(first) => 1,
            _ => rest
                .find(|letter: char| {
                    letter.is_whitespace() || letter == '"' || PUNCTUATION.contains(letter)
                })
                .unwrap_or(rest.len()),
        };
        let (word, tail) = rest.split_at(length);
        found.push(word);
        rest = tail.trim_start();
    }
    found
}

/// One step of a function's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    Label(&'a str),
    Instruction(Instruction<'a>),
}

/// One instruction: the predicate that guards it, its opcode with modifiers, and its operands without punctuation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Instruction<'a> {
    pub(super) guard: Option<&'a str>,
    pub(super) opcode: &'a str,
    pub(super) operands: Vec<&'a str>,
}

/// A kernel or a device function.
#[derive(Default)]
pub(super) struct Function<'a> {
    pub(super) name: &'a str,
    is_kernel: bool,
    params: Vec<Param>,
    pub(super) steps: Vec<Step<'a>>,
    /// 32-bit registers that one register of this name prefix takes.
    pub(super) widths: HashMap<&'a str, u32>,
    shared_bytes: usize,
    local_bytes: usize,
    max_threads: u32,
    pub(super) registers_max: Option<u32>,
}

#[derive(Default)]
struct Module<'a> {
    functions: Vec<Function<'a>>,
    globals: Vec<GlobalImage>,
    shared_bytes: usize,
}

impl<'a> Module<'a> {
    /// None when braces or parentheses do not match, or a function has no name.
    fn parse(words: &[&'a str]) -> Option<Self> {
        let mut module = Self::default();
        let mut cursor = Cursor { words, at: 0 };
        while cursor.peek().is_some() {
            let statement = cursor.statement()?;
            if statement.contains(&".entry") || statement.contains(&".func") {
                let mut function = Function::declared(statement)?;
                if cursor.take_if("{") {
                    function.read_body(cursor.block()?)?;
                    module.functions.push(function);
                }
            } else if cursor.take_if("{") {
                cursor.block()?;
            } else {
                module.declare(statement);
            }
            cursor.take_if(";");
        }
        Some(module)
    }

    fn declare(&mut self, statement: &[&'a str]) {
        let Some(variable) = Variable::parse(statement) else {
            return;
        };
        if statement.contains(&".extern") {
            return;
        }
        if statement.contains(&".shared") {
            self.shared_bytes = variable.place_after(self.shared_bytes);
        } else if statement.contains(&".global") || statement.contains(&".const") {
            self.globals.push(GlobalImage {
                name: variable.name.to_owned(),
                bytes: variable.bytes,
                initial: variable.initial,
            });
        }
    }

    fn image(&self, target: u32, ptx_version: u32) -> Image {
        let instructions: usize = self
            .functions
            .iter()
            .map(|function| function.steps.len())
            .sum();
        let weights = cost::Weights::of(&self.functions);
        let kernels = self.functions.iter().filter(|function| function.is_kernel);
        let kernels = kernels.map(|function| KernelImage {
            name: function.name.to_owned(),
            params: function.params.clone(),
            registers: cost::registers(function),
            shared_bytes: self
                .shared_bytes
                .saturating_add(function.shared_bytes)
                .try_into()
                .unwrap_or(u32::MAX),
            local_bytes: function.local_bytes.try_into().unwrap_or(u32::MAX),
            max_threads: function.max_threads,
            instructions: weights.instructions(function.name),
            fault: doom::of(&function.steps),
        });
        Image {
            kernels: kernels.collect(),
            globals: self.globals.clone(),
            code_bytes: u64::try_from(instructions)
                .unwrap_or(u64::MAX)
                .saturating_mul(CODE_BYTES_PER_INSTRUCTION),
            target,
            ptx_version,
        }
    }
}

struct Cursor<'w, 'a> {
    words: &'w [&'a str],
    at: usize,
}

impl<'w, 'a> Cursor<'w, 'a> {
    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.at).copied()
    }

    fn take_if(&mut self, wanted: &str) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    /// Words up to a `;`, or to a `{` that opens a block rather than an initialiser. Leaves both standing.
    fn statement(&mut self) -> Option<&'w [&'a str]> {
        let start = self.at;
        let mut initialiser = false;
        let mut depth = 0usize;
        while let Some(word) = self.peek() {
            match word {
                ";" if depth == 0 => break,
                "{" if !initialiser => break,
                "=" => initialiser = true,
                "{" => depth += 1,
                "}" => depth = depth.checked_sub(1)?,
                _ => {}
            }
            self.at += 1;
        }
        self.words.get(start..self.at)
    }

    /// Words up to the `}` that closes the block just opened, which is taken.
    fn block(&mut self) -> Option<&'w [&'a str]> {
        let start = self.at;
        let mut depth = 1usize;
        while depth > 0 {
            match self.peek()? {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            self.at += 1;
        }
        self.words.get(start..self.at - 1)
    }
}

impl<'a> Function<'a> {
    fn declared(statement: &[&'a str]) -> Option<Self> {
        let keyword = statement
            .iter()
            .position(|word| matches!(*word, ".entry" | ".func"))?;
        let mut rest = statement.get(keyword + 1..)?;
        if rest.first() == Some(&"(") {
            let end = rest.iter().position(|word| *word == ")")?;
            rest = rest.get(end + 1..)?;
        }
        let (name, rest) = rest.split_first()?;
        let mut function = Self {
            name,
            is_kernel: statement.get(keyword) == Some(&".entry"),
            ..Self::default()
        };
        let mut directives = rest;
        if rest.first() == Some(&"(") {
            let end = rest.iter().position(|word| *word == ")")?;
            function.params = params(rest.get(1..end)?);
            directives = rest.get(end + 1..)?;
        }
        function.read_directives(directives);
        Some(function)
    }

    fn read_directives(&mut self, directives: &[&'a str]) {
        for (index, word) in directives.iter().enumerate() {
            let numbers = directives
                .iter()
                .skip(index + 1)
                .take_while(|word| !word.starts_with('.'))
                .filter_map(|word| word.parse::<u32>().ok());
            match *word {
                ".maxntid" | ".reqntid" => self.max_threads = numbers.fold(1, u32::saturating_mul),
                ".maxnreg" => self.registers_max = numbers.into_iter().next(),
                _ => {}
            }
        }
    }

    /// Inner blocks (call sequences, inline assembly) are read as if their braces were not there.
    fn read_body(&mut self, words: &[&'a str]) -> Option<()> {
        let mut statement = Vec::new();
        for word in words {
            match *word {
                "{" | "}" if !statement.contains(&"=") && !is_vector(&statement) => {}
                ";" => {
                    self.read_statement(&statement)?;
                    statement.clear();
                }
                ":" if statement.len() == 1 => {
                    self.steps.push(Step::Label(statement.first()?));
                    statement.clear();
                }
                word => statement.push(word),
            }
        }
        statement.is_empty().then_some(())
    }

    fn read_statement(&mut self, statement: &[&'a str]) -> Option<()> {
        let (first, rest) = match statement.split_first() {
            Some(split) => split,
            None => return Some(()),
        };
        match *first {
            ".reg" => self.declare_registers(rest),
            ".shared" => {
                self.shared_bytes = Variable::parse(statement)?.place_after(self.shared_bytes)
            }
            ".local" => {
                self.local_bytes = Variable::parse(statement)?.place_after(self.local_bytes)
            }
            directive if directive.starts_with('.') => {}
            guard if guard.starts_with('@') => {
                let (opcode, operands) = rest.split_first()?;
                self.push(Some(guard.trim_start_matches(['@', '!'])), opcode, operands);
            }
            opcode => self.push(None, opcode, rest),
        }
        Some(())
    }

    fn push(&mut self, guard: Option<&'a str>, opcode: &'a str, operands: &[&'a str]) {
        let operands = operands
            .iter()
            .copied()
            .filter(|word| !PUNCTUATION.contains(word))
            .collect();
        self.steps.push(Step::Instruction(Instruction {
            guard,
            opcode,
            operands,
        }));
    }

    /// `.reg .b32 %r<10>;` or `.reg .pred p, q;`
    fn declare_registers(&mut self, words: &[&'a str]) {
        let bytes = words.iter().find_map(|word| type_bytes(word));
        let width = bytes.map_or(0, |bytes| u32::try_from(bytes.div_ceil(4)).unwrap_or(1));
        let names = words
            .iter()
            .filter(|word| !word.starts_with('.') && !PUNCTUATION.contains(*word));
        for name in names.filter(|name| !name.starts_with(|letter: char| letter.is_ascii_digit())) {
            self.widths.insert(cost::prefix(name), width);
        }
    }
}

/// Braces inside an instruction's operands: `ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd1];`.
fn is_vector(statement: &[&str]) -> bool {
    !statement.is_empty()
}

/// Size of a fundamental type in bytes; predicates and unknown words have none.
fn type_bytes(word: &str) -> Option<usize> {
    let bits = word
        .strip_prefix('.')?
        .trim_start_matches(['b', 'u', 's', 'f']);
    match bits {
        "8" => Some(1),
        "16" | "16x2" => Some(if bits == "16" { 2 } else { 4 }),
        "32" => Some(4),
        "64" => Some(8),
        "128" => Some(16),
        _ => matches!(word, ".texref" | ".surfref" | ".samplerref").then_some(8),
    }
}

/// A variable or parameter declaration.
struct Variable<'a> {
    name: &'a str,
    align: usize,
    bytes: usize,
    initial: Vec<u8>,
}

impl<'a> Variable<'a> {
    fn parse(words: &[&'a str]) -> Option<Self> {
        let kind = words.iter().position(|word| type_bytes(word).is_some())?;
        let element_bytes = type_bytes(words.get(kind)?)?;
        let lanes = words
            .iter()
            .find_map(|word| word.strip_prefix(".v")?.parse::<usize>().ok())
            .unwrap_or(1);
        let align = words
            .iter()
            .position(|word| *word == ".align")
            .and_then(|at| words.get(at + 1)?.parse().ok());
        let name_at = words
            .iter()
            .enumerate()
            .skip(kind + 1)
            .find(|(at, word)| is_name(words, *at, word))?
            .0;
        let (declarator, initialiser) = match words.iter().position(|word| *word == "=") {
            Some(at) => (words.get(name_at + 1..at)?, words.get(at + 1..)?),
            None => (words.get(name_at + 1..)?, [].as_slice()),
        };
        let dims = declarator
            .iter()
            .filter_map(|word| word.parse::<usize>().ok());
        let count = if declarator.first() == Some(&"[") && declarator.get(1) == Some(&"]") {
            0
        } else {
            dims.fold(1, usize::saturating_mul)
        };
        let initial = if declarator.is_empty() || declarator.contains(&"[") {
            initial(initialiser, element_bytes)
        } else {
            Vec::new()
        };
        let bytes = element_bytes
            .saturating_mul(lanes)
            .saturating_mul(count)
            .max(initial.len());
        Some(Self {
            name: words.get(name_at)?,
            align: align.unwrap_or(element_bytes.saturating_mul(lanes)).max(1),
            bytes,
            initial,
        })
    }

    /// End of this variable when it is laid behind `used` bytes.
    fn place_after(&self, used: usize) -> usize {
        used.next_multiple_of(self.align).saturating_add(self.bytes)
    }
}

fn is_name(words: &[&str], at: usize, word: &str) -> bool {
    let follows_align = at > 0 && words.get(at - 1) == Some(&".align");
    !word.starts_with('.') && !PUNCTUATION.contains(word) && !follows_align
}

/// Integers and hexadecimal floats of an initialiser; addresses of other variables stay zero.
fn initial(words: &[&str], element_bytes: usize) -> Vec<u8> {
    let values = words
        .iter()
        .filter(|word| !PUNCTUATION.contains(*word))
        .map(|word| number(word).unwrap_or(0));
    values
        .flat_map(|value| value.to_le_bytes().into_iter().take(element_bytes))
        .collect()
}

/// An integer literal, or the bits of a float literal (`0f3F800000`, `0d3FF0000000000000`).
pub(super) fn number(word: &str) -> Option<i64> {
    let word = word.trim_end_matches('U');
    let (negative, digits) = word
        .strip_prefix('-')
        .map_or((false, word), |digits| (true, digits));
    let hexadecimal = ["0x", "0X", "0f", "0F", "0d", "0D"]
        .iter()
        .find_map(|prefix| digits.strip_prefix(prefix));
    let value = match hexadecimal {
        Some(digits) => u64::from_str_radix(digits, 16).ok()?.cast_signed(),
        None => digits.parse::<i64>().ok()?,
    };
    Some(if negative {
        value.wrapping_neg()
    } else {
        value
    })
}

fn params(words: &[&str]) -> Vec<Param> {
    let mut end = 0usize;
    let declarations = words.split(|word| *word == ",").filter_map(Variable::parse);
    declarations
        .map(|variable| {
            let offset = end.next_multiple_of(variable.align);
            end = offset.saturating_add(variable.bytes);
            Param {
                offset,
                size: variable.bytes,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = ".version 8.4\n.target sm_75\n.address_size 64\n";

    fn image(body: &str) -> Image {
        read(format!("{HEADER}{body}").as_bytes(), 75).unwrap()
    }

    #[test]
    fn parameters_are_laid_out_with_their_own_alignment() {
        let image = image(
            ".visible .entry f(.param .u8 a, .param .u64 b, .param .align 4 .b8 c[6], .param .f32 d) { ret; }",
        );
        let offsets: Vec<_> = image.kernels[0]
            .params
            .iter()
            .map(|param| (param.offset, param.size))
            .collect();
        assert_eq!(offsets, [(0, 1), (8, 8), (16, 6), (24, 4)]);
    }

    #[test]
    fn shared_memory_of_the_module_and_of_the_kernel_add_up() {
        let image = image(
            ".extern .shared .align 16 .b8 dynamic[];\n.shared .align 4 .b8 outer[100];\n.entry f() { .shared .align 16 .f32 inner[8]; ret; }",
        );
        assert_eq!(image.kernels[0].shared_bytes, 132);
    }

    #[test]
    fn variables_keep_their_initial_bytes() {
        let image = image(
            ".global .align 4 .u32 counter;\n.const .align 4 .b8 table[8] = {1, 0x2, -1};\n.entry f() { ret; }",
        );
        assert_eq!(
            image.globals[0],
            GlobalImage {
                name: "counter".into(),
                bytes: 4,
                initial: vec![]
            }
        );
        assert_eq!(
            image.globals[1],
            GlobalImage {
                name: "table".into(),
                bytes: 8,
                initial: vec![1, 2, 255]
            }
        );
    }

    #[test]
    fn launch_bounds_are_read() {
        let image = image(".entry f()\n.maxntid 32, 4, 1\n.minnctapersm 2\n{ ret; }");
        assert_eq!(image.kernels[0].max_threads, 128);
    }

    #[test]
    fn comments_and_line_directives_count_for_nothing() {
        let commented = image(
            ".entry f() { // one { brace\n.loc 1 2 3, function_name $L, inlined_at 4 5 6\n/* ; */ mov.u32 %r1, 1;\nret; }",
        );
        let plain = image(".entry f() { mov.u32 %r1, 1; ret; }");
        assert_eq!(
            commented.kernels[0].instructions,
            plain.kernels[0].instructions
        );
    }

    #[test]
    fn text_that_is_no_ptx_is_an_invalid_image_and_broken_ptx_is_invalid_ptx() {
        assert_eq!(read(b"hello", 75), Err(Unreadable::Image));
        assert_eq!(
            read(format!("{HEADER}.entry f() {{ ret; ").as_bytes(), 75),
            Err(Unreadable::Ptx)
        );
        assert_eq!(
            read(b".version 8.4\n.entry f() { ret; }", 75),
            Err(Unreadable::Ptx)
        );
    }

    #[test]
    fn ptx_for_a_newer_device_is_refused() {
        assert_eq!(
            read(b".version 8.4\n.target sm_90a\n.entry f() { ret; }", 75),
            Err(Unreadable::Ptx)
        );
    }
}
