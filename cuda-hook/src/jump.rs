//! Jumps: exported or linked functions without a type, that lead elsewhere.
//!
//! A jump goes through its slot, to the function that it stands for: arguments, stack and answer are none of our business. While the
//! slot is null, which is until the first call, it goes to its room's [`first_call`] with its number in `r11d`, and that function finds
//! where it leads. Slots that start as null cost nothing when the library is loaded: there is no address in them to be set right.

/// A jump, as lines of assembly that want `slots`, `number`, `offset` (of the slot, in bytes) and `first_call`.
macro_rules! jump {
    () => {
        "mov r11, [rip + {slots} + {offset}]\n\
         test r11, r11\n\
         jz 2f\n\
         jmp r11\n\
         2:\n\
         mov r11d, {number}\n\
         jmp {first_call}"
    };
}
pub(crate) use jump;

/// An exported function, as lines of assembly that want `open` (a pointer to a library without limits, or null), `row` (the offset of
/// the real function in it), `straight` and `hooked`, of the function's own type: without limits it jumps to the real function; else to what
/// `straight` answers, unless that is null; else to `hooked`. For functions whose arguments in registers are integers and pointers.
macro_rules! straight_jump {
    () => {
        ".cfi_startproc\n\
         mov rax, [rip + {open}]\n\
         test rax, rax\n\
         jz 2f\n\
         mov rax, [rax + {row}]\n\
         test rax, rax\n\
         jz 3f\n\
         jmp rax\n\
         2:\n\
         push rdi\n\
         push rsi\n\
         push rdx\n\
         push rcx\n\
         push r8\n\
         push r9\n\
         sub rsp, 8\n\
         .cfi_adjust_cfa_offset 56\n\
         call {straight}\n\
         add rsp, 8\n\
         pop r9\n\
         pop r8\n\
         pop rcx\n\
         pop rdx\n\
         pop rsi\n\
         pop rdi\n\
         .cfi_adjust_cfa_offset -56\n\
         test rax, rax\n\
         jz 3f\n\
         jmp rax\n\
         3:\n\
         jmp {hooked}\n\
         .cfi_endproc"
    };
}
pub(crate) use straight_jump;

/// Defines what an empty slot leads to: asks `$target` for the address, as an `extern "C"` function of the number, and goes on there
/// with every register that an argument may be in as it came.
macro_rules! first_call {
    ($name:ident asks $target:ident) => {
        /// # Safety
        /// Jumped to from a jump, with its number in `r11d`.
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            std::arch::naked_asm!(
                "push rax",
                "push rdi",
                "push rsi",
                "push rdx",
                "push rcx",
                "push r8",
                "push r9",
                "sub rsp, 128",
                "movups [rsp], xmm0",
                "movups [rsp + 16], xmm1",
                "movups [rsp + 32], xmm2",
                "movups [rsp + 48], xmm3",
                "movups [rsp + 64], xmm4",
                "movups [rsp + 80], xmm5",
                "movups [rsp + 96], xmm6",
                "movups [rsp + 112], xmm7",
                "mov edi, r11d",
                "call {target}",
                "mov r11, rax",
                "movups xmm0, [rsp]",
                "movups xmm1, [rsp + 16]",
                "movups xmm2, [rsp + 32]",
                "movups xmm3, [rsp + 48]",
                "movups xmm4, [rsp + 64]",
                "movups xmm5, [rsp + 80]",
                "movups xmm6, [rsp + 96]",
                "movups xmm7, [rsp + 112]",
                "add rsp, 128",
                "pop r9",
                "pop r8",
                "pop rcx",
                "pop rdx",
                "pop rsi",
                "pop rdi",
                "pop rax",
                "jmp r11",
                target = sym $target,
            )
        }
    };
}
pub(crate) use first_call;
