// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @title For tests: a smart wallet (EIP-1271) that agrees to what its key signed, with any bytes after that signature.
contract KeyWallet {
    bytes4 private constant VALID = 0x1626ba7e;
    bytes4 private constant INVALID = 0xffffffff;

    address private immutable _key;

    constructor(address key) {
        _key = key;
    }

    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4) {
        if (signature.length < 65) return INVALID;
        address signer =
            ecrecover(digest, uint8(signature[64]), bytes32(signature[0:32]), bytes32(signature[32:64]));
        return signer == _key && signer != address(0) ? VALID : INVALID;
    }
}
