//! The program `mqgate`; everything is in the library.

fn main() -> std::process::ExitCode {
    mqgate::cli::main()
}
