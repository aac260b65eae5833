// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {MintToken} from "../MintToken.sol";

/// @title For tests: a token whose batch forgets which mint ids it has minted.
/// @notice It must never be offered: whatever is repeated after a crash is minted again.
contract CarelessMintToken is MintToken {
    constructor(
        string memory name,
        string memory symbol,
        uint256 mintAmount_,
        uint256 maxMintCount_,
        address admin,
        address minter
    ) MintToken(name, symbol, mintAmount_, maxMintCount_, admin, minter) {}

    function batchMint(address[] calldata to, bytes32[] calldata mintId) external override onlyRole(MINTER_ROLE) {
        require(to.length == mintId.length, MintToken__LengthMismatch(to.length, mintId.length));
        for (uint256 i = 0; i < to.length; ++i) {
            _mint(to[i], mintAmount);
        }
        _count(to.length);
    }
}
