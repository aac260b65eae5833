// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

interface IAsset {
    function balanceOf(address account) external view returns (uint256);
    function authorizationState(address authorizer, bytes32 nonce) external view returns (bool);
}

/// @title What would become of many EIP-3009 payments, seen in one eth_call. It is never deployed.
/// @notice The call has no `to`: creation code and arguments are its data, and what the constructor returns is its
/// answer. The items are tried in order and each sees the state that the earlier ones left, as in one transaction.
/// @dev A node treats the answer as code: at most 24,576 bytes, the first not 0xEF. So it is packed, big-endian:
///
///   block number (8) timestamp (8) item count (2) reason count (1)
///   items, 26 bytes each: flags (1: bit 0 used, bit 1 ok) reason (1) code size (4) balance (16) gas used (4)
///   reasons: length (1) bytes
///
/// `reason` is 0 for none, otherwise the place of its revert data (from 1) among the reasons, which are cut to
/// 132 bytes and listed once each. When there are more than 120 of them, the later ones are left out: reason 255.
contract Preflight {
    /// @notice There is no code at the asset's address, or it is no EIP-3009 token.
    error Preflight__NoAsset(address asset);
    /// @notice The items end in the middle of one.
    error Preflight__Malformed(uint256 length);

    struct Item {
        address payer;
        uint256 value;
        uint256 validAfter;
        uint256 validBefore;
        bytes32 nonce;
        bytes signature;
    }

    uint256 private constant ITEM_HEAD_BYTES = 86;
    uint256 private constant HEADER_BYTES = 19;
    uint256 private constant RESULT_BYTES = 26;
    uint256 private constant REASONS_MAX = 120;
    uint256 private constant REASON_BYTES_MAX = 132;
    uint256 private constant REASON_LEFT_OUT = 255;
    // Looking at code, balance and authorization before the transfer makes them cheaper for it (EIP-2929).
    uint256 private constant WARMED_GAS = 2_600 + 2_100 + 2_100;

    // Kept in memory only: `hashes` of the reasons known so far, and where the next one is written.
    struct Reasons {
        uint256 count;
        uint256 end;
        bytes32[REASONS_MAX] hashes;
    }

    /// @param codePayerGas what an item gets whose payer has code, which decides what it costs: the others must still be
    /// tried.
    /// @param packed items: payer (20) value (16) validAfter (8) validBefore (8) nonce (32) length of the signature (2)
    /// signature. One of 65 bytes is r (32) s (32) v (1), and goes into the transfer that takes these three.
    constructor(address asset, address payTo, uint256 codePayerGas, uint256 count, bytes memory packed) {
        require(asset.code.length != 0, Preflight__NoAsset(asset));
        bytes memory answer = new bytes(HEADER_BYTES + count * RESULT_BYTES + REASONS_MAX * (1 + REASON_BYTES_MAX));
        Reasons memory reasons;
        reasons.end = HEADER_BYTES + count * RESULT_BYTES;
        uint256 offset = 0;
        for (uint256 i = 0; i < count; ++i) {
            Item memory item = _unpack(packed, offset);
            offset += ITEM_HEAD_BYTES + item.signature.length;
            uint256 result = _try(asset, payTo, codePayerGas, item, answer, reasons);
            _write(answer, HEADER_BYTES + i * RESULT_BYTES, RESULT_BYTES, result);
        }
        require(offset == packed.length, Preflight__Malformed(packed.length));
        uint256 header = block.number << 88 | block.timestamp << 24 | count << 8 | reasons.count;
        _write(answer, 0, HEADER_BYTES, header);
        uint256 length = reasons.end;
        assembly ("memory-safe") {
            return(add(answer, 32), length)
        }
    }

    function _try(
        address asset,
        address payTo,
        uint256 codePayerGas,
        Item memory item,
        bytes memory answer,
        Reasons memory reasons
    ) private returns (uint256 result) {
        uint256 codeSize = item.payer.code.length;
        uint256 balance = _read(asset, abi.encodeCall(IAsset.balanceOf, (item.payer)));
        uint256 used = _read(asset, abi.encodeCall(IAsset.authorizationState, (item.payer, item.nonce)));
        bytes memory data = _transferCall(payTo, item);
        uint256 gasBefore = gasleft();
        (bool ok, bytes memory returned) = asset.call{gas: codeSize == 0 ? gasBefore : codePayerGas}(data);
        uint256 gasUsed = gasBefore - gasleft() + WARMED_GAS;
        uint256 reason = ok ? 0 : _remember(returned, answer, reasons);
        if (balance > type(uint128).max) balance = type(uint128).max;
        if (gasUsed > type(uint32).max) gasUsed = type(uint32).max;
        result = (ok ? 2 : 0) | (used == 0 ? 0 : 1);
        result = result << 8 | reason;
        result = result << 32 | codeSize;
        result = result << 128 | balance;
        result = result << 32 | gasUsed;
    }

    // One word from a view of the asset; a contract that has no such view is no asset.
    function _read(address asset, bytes memory data) private view returns (uint256 word) {
        (bool ok, bytes memory returned) = asset.staticcall(data);
        require(ok && returned.length >= 32, Preflight__NoAsset(asset));
        word = abi.decode(returned, (uint256));
    }

    function _transferCall(address payTo, Item memory item) private pure returns (bytes memory) {
        bytes memory signature = item.signature;
        if (signature.length != 65) {
            return abi.encodeWithSignature(
                "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)",
                item.payer,
                payTo,
                item.value,
                item.validAfter,
                item.validBefore,
                item.nonce,
                signature
            );
        }
        return abi.encodeWithSignature(
            "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)",
            item.payer,
            payTo,
            item.value,
            item.validAfter,
            item.validBefore,
            item.nonce,
            uint8(signature[64]),
            bytes32(_number(signature, 0, 32)),
            bytes32(_number(signature, 32, 32))
        );
    }

    // The place of this revert data among the reasons, which grow by it when it is new.
    function _remember(bytes memory returned, bytes memory answer, Reasons memory reasons)
        private
        pure
        returns (uint256)
    {
        uint256 length = returned.length < REASON_BYTES_MAX ? returned.length : REASON_BYTES_MAX;
        bytes32 hash;
        assembly ("memory-safe") {
            hash := keccak256(add(returned, 32), length)
        }
        for (uint256 i = 0; i < reasons.count; ++i) {
            if (reasons.hashes[i] == hash) return i + 1;
        }
        if (reasons.count == REASONS_MAX) return REASON_LEFT_OUT;
        reasons.hashes[reasons.count] = hash;
        reasons.count += 1;
        _write(answer, reasons.end, 1, length);
        uint256 offset = reasons.end + 1;
        assembly ("memory-safe") {
            mcopy(add(add(answer, 32), offset), add(returned, 32), length)
        }
        reasons.end = offset + length;
        return reasons.count;
    }

    function _unpack(bytes memory packed, uint256 offset) private pure returns (Item memory item) {
        item.payer = address(uint160(_number(packed, offset, 20)));
        item.value = _number(packed, offset + 20, 16);
        item.validAfter = _number(packed, offset + 36, 8);
        item.validBefore = _number(packed, offset + 44, 8);
        item.nonce = bytes32(_number(packed, offset + 52, 32));
        uint256 length = _number(packed, offset + 84, 2);
        require(offset + ITEM_HEAD_BYTES + length <= packed.length, Preflight__Malformed(packed.length));
        bytes memory signature = new bytes(length);
        assembly ("memory-safe") {
            mcopy(add(signature, 32), add(add(add(packed, 32), offset), ITEM_HEAD_BYTES), length)
        }
        item.signature = signature;
    }

    // `size` bytes as a number. The last word may read past the array, and shifts that away.
    function _number(bytes memory from, uint256 offset, uint256 size) private pure returns (uint256 value) {
        assembly ("memory-safe") {
            value := shr(sub(256, mul(8, size)), mload(add(add(from, 32), offset)))
        }
    }

    // `value` as `size` big-endian bytes; what follows them is kept.
    function _write(bytes memory into, uint256 offset, uint256 size, uint256 value) private pure {
        assembly ("memory-safe") {
            let place := add(add(into, 32), offset)
            let rest := sub(256, mul(8, size))
            mstore(place, or(shl(rest, value), shr(sub(256, rest), shl(sub(256, rest), mload(place)))))
        }
    }
}
