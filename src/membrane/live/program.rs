//! The program that the kernel runs for each new connection to choose between two sockets: classic BPF over the first packet (Linux `filter.rst`).
//! It answers with a position in the group of sockets: 0 is the service, which was there first, 1 is homeostat.

use std::net::Ipv6Addr;

use nix::libc;

/// The position of the service in the group.
const SERVICE: u32 = 0;
/// The position of homeostat.
const HERE: u32 = 1;
/// No position: the kernel chooses as if there were no program.
const NOBODY: u32 = u32::MAX;

/// Offsets from the network header (`SKF_NET_OFF`).
const NET: u32 = 0x_fff0_0000;

/// The traffic class of connections of homeostat over IPv6: a code point for local use (RFC 2474 section 6, pool 2), which nothing sets by itself.
pub(super) const CLASS: u32 = 0xac;

/// How connections of homeostat to the service are told from those of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// IPv4: they come from 127.A.B.0/24.
    Source([u8; 2]),
    /// IPv6, which has one loopback address: they come from this address of the machine itself, with [`CLASS`].
    Class(Ipv6Addr),
}

/// A program.
pub(super) type Program = Vec<libc::sock_filter>;

fn statement(code: u32, k: u32) -> libc::sock_filter {
    jump(code, k, 0, 0)
}

fn jump(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    // Codes are 16 bits by the definition of the instruction.
    libc::sock_filter { code: code as u16, jt, jf, k }
}

fn answer(position: u32) -> libc::sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, position)
}

/// Connections with the mark go to the service, all others come here.
pub(super) fn divide(mark: Mark) -> Program {
    let mut checks: Vec<(u32, u32, u32)> = Vec::new();
    match mark {
        Mark::Source([a, b]) => {
            checks.push((0, 0xf000_0000, 0x4000_0000));
            checks.push((12, 0xffff_ff00, u32::from_be_bytes([127, a, b, 0])));
        }
        Mark::Class(source) => {
            // Version, then the six bits of the traffic class that are not for congestion.
            checks.push((0, 0xffc0_0000, 0x6000_0000 | (CLASS & 0xfc) << 20));
            for (index, word) in source.octets().chunks_exact(4).enumerate() {
                let word = word.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
                checks.push((8 + 4 * index as u32, u32::MAX, word));
            }
        }
    }
    let mut program = Vec::new();
    for (number, (offset, mask, value)) in checks.iter().enumerate() {
        // Over the rest of the checks (three instructions each) and the answer for the service.
        let otherwise = (3 * (checks.len() - 1 - number) + 1) as u8;
        program.push(statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, NET + offset));
        program.push(statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, *mask));
        program.push(jump(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, *value, 0, otherwise));
    }
    program.extend([answer(SERVICE), answer(HERE)]);
    program
}

/// Everything goes to the service.
pub(super) fn withdraw() -> Program {
    vec![answer(SERVICE)]
}

/// The same as no program.
pub(super) fn nothing() -> Program {
    vec![answer(NOBODY)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a program answers to a packet that begins with its network header.
    fn run(program: &Program, packet: &[u8]) -> u32 {
        let (mut at, mut a) = (0, 0_u32);
        loop {
            let i = program[at];
            at += 1;
            match u32::from(i.code) {
                0x20 => {
                    let from = (i.k - NET) as usize;
                    a = u32::from_be_bytes(packet[from..from + 4].try_into().unwrap());
                }
                0x54 => a &= i.k,
                0x15 => at += usize::from(if a == i.k { i.jt } else { i.jf }),
                0x06 => return i.k,
                other => panic!("{other:#x}"),
            }
        }
    }

    fn v4(source: [u8; 4]) -> Vec<u8> {
        let mut packet = vec![0x45; 1];
        packet.resize(40, 0);
        packet[12..16].copy_from_slice(&source);
        packet
    }

    fn v6(class: u8, source: Ipv6Addr) -> Vec<u8> {
        let mut packet = vec![0; 60];
        // Any flow label.
        packet[..4].copy_from_slice(&(0x6000_0000 | u32::from(class) << 20 | 0x5_4321).to_be_bytes());
        packet[8..24].copy_from_slice(&source.octets());
        packet
    }

    #[test]
    fn only_connections_of_homeostat_go_to_the_service() {
        let program = divide(Mark::Source([200, 7]));
        assert_eq!(run(&program, &v4([127, 200, 7, 9])), SERVICE);
        for other in [[127, 200, 8, 9], [127, 0, 0, 1], [10, 200, 7, 9]] {
            assert_eq!(run(&program, &v4(other)), HERE);
        }
        assert_eq!(run(&program, &v6(CLASS as u8, Ipv6Addr::LOCALHOST)), HERE);

        let program = divide(Mark::Class(Ipv6Addr::LOCALHOST));
        assert_eq!(run(&program, &v6(CLASS as u8, Ipv6Addr::LOCALHOST)), SERVICE);
        assert_eq!(run(&program, &v6(CLASS as u8 | 1, Ipv6Addr::LOCALHOST)), SERVICE, "congestion bits");
        assert_eq!(run(&program, &v6(0, Ipv6Addr::LOCALHOST)), HERE);
        assert_eq!(run(&program, &v6(CLASS as u8, "fd00::2".parse().unwrap())), HERE);
        assert_eq!(run(&program, &v4([127, 0, 0, 1])), HERE);
    }

    #[test]
    fn whoever_withdraws_sends_everything_to_the_service() {
        assert_eq!(run(&withdraw(), &v4([127, 0, 0, 1])), SERVICE);
        assert_eq!(run(&nothing(), &v4([127, 0, 0, 1])), NOBODY);
    }
}
