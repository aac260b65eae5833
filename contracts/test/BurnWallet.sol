// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @title For tests: a smart wallet that says yes to every signature, and can be armed to burn a batch.
/// @notice Armed, it burns all gas it is given, but only where gas has a price: eth_call sees nothing of it.
contract BurnWallet {
    bytes4 private constant VALID = 0x1626ba7e; // EIP-1271

    bool public armed;

    function arm(bool armed_) external {
        armed = armed_;
    }

    function isValidSignature(bytes32, bytes calldata) external view returns (bytes4) {
        if (armed && tx.gasprice > 0) {
            assembly ("memory-safe") {
                invalid()
            }
        }
        return VALID;
    }
}
