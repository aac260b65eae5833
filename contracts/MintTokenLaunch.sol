// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {MintToken} from "./MintToken.sol";

/// @title Deploys a MintToken and gives out its roles, in one transaction: all of it stands, or none.
/// @notice Creation code only; it leaves no code behind and keeps no role. The token's address follows from this
/// contract's address and account nonce 1.
contract MintTokenLaunch {
    /// @notice Someone has to be able to name minters.
    error MintTokenLaunch__ZeroAdmin();

    constructor(
        string memory name,
        string memory symbol,
        uint256 mintAmount,
        uint256 maxMintCount,
        address admin,
        address[] memory minters
    ) {
        require(admin != address(0), MintTokenLaunch__ZeroAdmin());
        MintToken token = new MintToken(name, symbol, mintAmount, maxMintCount, address(this), address(0));
        bytes32 adminRole = token.DEFAULT_ADMIN_ROLE();
        bytes32 minterRole = token.MINTER_ROLE();
        for (uint256 i = 0; i < minters.length; ++i) {
            token.grantRole(minterRole, minters[i]);
        }
        token.grantRole(adminRole, admin);
        token.renounceRole(adminRole, address(this));
        assembly {
            return(0, 0)
        }
    }
}
